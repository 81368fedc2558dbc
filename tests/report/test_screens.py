"""Screens: keys stay whole at 80 columns, losses stand out, large reports are quick, whole and safe."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from ckptconv.commands.convert import Conversion, Options, convert
from ckptconv.commands.inspect import Inspection, OtherEntry, TensorInfo, inspect
from ckptconv.plan import Plan, Told
from ckptconv.report.conversion import screen as conversion_screen
from ckptconv.report.inspection import screen
from tests.commands.conftest import FINETUNED, GOLDEN


def printed(what: RenderableType, width: int = 160, terminal: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    console.print(what, crop=False)
    return out.getvalue()


def words(text: str) -> list[str]:
    """The lines, with one blank between words."""
    return [" ".join(line.split()) for line in text.splitlines()]


def many(count: int) -> Inspection:
    found = inspect(FINETUNED)
    tensors = tuple(TensorInfo(f"m{number}.\u754c.weight{number}", (2, 3), "F32", 24, None) for number in range(count))
    return replace(found, tensors=tensors, layout=None)


@pytest.mark.parametrize("name", ["deltalm_finetuned_share_all.pt", "hf_deltalm_fengshen_transformers-4.30.2.bin"])
def test_keys_are_whole_at_80_columns(name: str):
    found = inspect(GOLDEN / name)
    text = printed(screen(found, None, True), 80)
    assert max(map(len, text.splitlines())) <= 80
    whole = {word for line in words(text) for word in line.split()}
    assert {info.key for info in found.tensors} <= whole


def test_a_key_wider_than_the_screen_is_folded():
    found = replace(inspect(FINETUNED), tensors=(TensorInfo("k" * 100, (2,), "F32", 8, None),), notes=())
    lines = printed(screen(found, None, True), 80).splitlines()
    assert sum(line.count("k") for line in lines if "kk" in line) == 100
    assert max(map(len, lines)) <= 80


def test_ties_and_both_counts_are_shown():
    text = "\n".join(words(printed(screen(inspect(FINETUNED), None, False))))
    assert "tensors 139 · parameters 286,658 · counting each tied key 307,522 · size 1.15 MB" in text
    assert "output_projection.weight 0 163 × 64 = encoder.embed_tokens.weight" in text
    assert "layers.{0..3} 4 × 133,888" in text
    assert "last_optimizer_state 2 entries 270 tensors, 2.29 MB" in text


def test_metadata_is_labelled_and_on_one_line():
    found = replace(inspect(FINETUNED), metadata={"format": "pt", "a\x1b[31m": "b\nc"})
    text = printed(screen(found, None, False))
    assert "metadata format pt" in words(text)
    assert "metadata a\\x1b[31m b\\x0ac" in words(text)


@pytest.mark.parametrize("every_tensor", [True, False])
def test_many_rows_are_whole_in_a_pipe(every_tensor: bool):
    lines = printed(screen(many(5000), None, every_tensor), 20).splitlines()
    rows = [line for line in lines if line.startswith("m") and "\u754c" in line]
    assert len(rows) == 5000
    assert rows[4999].startswith("m4999.\u754c.weight4999  ")
    assert len({len(line) for line in rows}) == 1
    assert not any("more" in line for line in lines)


def test_many_rows_on_a_terminal():
    assert "… and 3,000 more (all of them in a pipe, or with --tensors)" in printed(
        screen(many(5000), None, False), terminal=True
    )
    text = printed(screen(many(5000), None, True), terminal=True)
    assert "m4999.\u754c.weight4999" in text
    assert "more" not in text
    others = tuple(OtherEntry(f"entry{number}", "0", 0, 0) for number in range(5000))
    text = printed(screen(replace(many(3), other=others), None, False), terminal=True)
    assert ("entry1999" in text, "entry2000" in text, "… and 3,000 more" in text) == (True, False, True)


def changes(source: Path, to: str, **options) -> list[str]:
    return words(printed(conversion_screen(convert(source, "x", Options(to=to, **options), dry_run=True), True)))


def test_a_cast_copy_is_not_called_bit_for_bit():
    lines = changes(FINETUNED, "hf", dtype="fp16")
    assert "mapped 135 cast to F16" in lines
    assert not any("bit for bit" in line for line in lines)
    assert "mapped 135 bit for bit" in changes(FINETUNED, "hf")


def test_integers_are_copied_where_floats_are_cast():
    lines = changes(GOLDEN / "hf_xlmr_mlm_transformers-4.30.2.bin", "same", dtype="bf16")
    assert {"mapped 42 cast to BF16", "mapped 1 bit for bit"} <= set(lines)


@pytest.mark.parametrize("options", [{}, {"dtype": "fp16"}, {"vocab": 200}, {"vocab": 163}])
def test_mapped_and_tied_are_all_target_keys(options: dict):
    report = convert(FINETUNED, "x", Options(to="hf", **options), dry_run=True)
    lines = words(printed(conversion_screen(report, True)))
    counts = [int(line.split()[1]) for line in lines if line.startswith(("mapped ", "tied "))]
    assert sum(counts) == len(report.plan.steps)


def test_an_extended_embedding_is_not_called_a_join():
    lines = changes(FINETUNED, "hf", vocab=200)
    assert "mapped 1 extended with made-up rows" in lines
    assert any(
        line.startswith("resized 1 ") and line.endswith("163 → 200 rows, 163..199 made up, zeros") for line in lines
    )


def told(*reasons: str) -> Conversion:
    dropped = tuple(Told(f"key{number}", reason) for number, reason in enumerate(reasons))
    return Conversion("a", "b", Plan("x/y", "x/z", {}, (), dropped), (), ())


def test_losses_come_first_and_in_bold_red():
    report = told("a constant", "LOST: the target has none", "a constant")
    lines = printed(conversion_screen(report, False), terminal=True).splitlines()[2:]
    assert "\x1b[1;31mdropped" in lines[0]
    assert "\x1b[1;31m  LOST: the target has none" in lines[0]
    assert "2  key0, key2" in lines[1]
    assert "\x1b[1;31m" not in lines[1]


@pytest.mark.parametrize(("count", "text"), [(1, "1 value of w became"), (2000, "2,000 values of w became")])
def test_overflow_is_counted_in_words(count: int, text: str):
    report = replace(told(), overflowed={"w": count})
    assert f"overflow {text} infinite" in words(printed(conversion_screen(report, False)))
