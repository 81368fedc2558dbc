"""Screens: keys stay whole at 80 columns, losses stand out, large reports are quick, whole and safe."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from ckptconv.commands.convert import Conversion, Options, convert
from ckptconv.commands.inspect import Inspection, OtherEntry, TensorInfo, inspect
from ckptconv.containers.oddities import OddKeys, SharedStorage
from ckptconv.containers.settings import Setting
from ckptconv.plan import Plan, Told
from ckptconv.report.conversion import screen as conversion_screen
from ckptconv.report.inspection import number, percent, screen
from ckptconv.values.stats import Stats
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


def test_the_head_says_how_sure_and_who_wrote_it():
    lines = words(printed(screen(inspect(FINETUNED), None, False)))
    assert lines[1] == "all 139 keys and their shapes fit"
    assert (
        lines[3]
        == "as written by torch 2.7 or newer (a zip with a format version), fairseq since March 2021 (a plain cfg)"
    )


MEASURED = Stats(12, -3.4028234e38, 3.4028234e38, -1.2345e-38, 1.17549435e-38, 11, 1, 2)


def measured(count: int) -> Inspection:
    tensors = tuple(TensorInfo(f"m{number}.weight", (3, 4), "F32", 48, None, True, MEASURED) for number in range(count))
    return replace(inspect(FINETUNED), tensors=tensors, notes=())


@pytest.mark.parametrize("terminal", [True, False])
def test_statistics_fit_80_columns_and_stand_below_each_other(terminal: bool):
    found = inspect(FINETUNED, stats=True)
    lines = printed(screen(replace(found, tensors=found.tensors + measured(1).tensors), None, False), 80).splitlines()
    rows = [line for line in lines if line.startswith("    min ")]
    assert len(rows) == 140
    assert max(map(len, rows[:-1])) <= 80
    assert len({line.index(name) for line in rows for name in ("max ",)}) == 1
    assert {line.index("zeros") for line in rows} == {rows[0].index("zeros")}
    assert rows[-1] == "    min -3.403e38   max  3.403e38   mean -1.234e-38  std  1.175e-38  zeros 91.7%  1 NaN  2 Inf"


def test_nan_and_inf_are_red():
    lines = printed(screen(measured(1), None, False), terminal=True).splitlines()
    assert any("\x1b[1;31m  1 NaN  2 Inf" in line for line in lines)
    clean = replace(MEASURED, nan=0, inf=0)
    text = printed(screen(replace(measured(1), tensors=(measured(1).tensors[0]._replace(stats=clean),)), None, False))
    assert "NaN" not in text


def test_many_statistics_are_bounded_on_a_terminal_only():
    found = measured(5000)
    cut = printed(screen(found, None, False), terminal=True)
    assert ("m1999.weight" in cut, "m2000.weight" in cut) == (True, False)
    assert "… and 3,000 more (all of them in a pipe, or with --tensors)" in cut
    for text in (printed(screen(found, None, True), terminal=True), printed(screen(found, None, False))):
        assert ("m4999.weight" in text, "more" in text) == (True, False)


@pytest.mark.parametrize("width", [80, 120])
def test_keys_that_look_wrong_are_named_and_bounded(width: int):
    keys = tuple(f"layers.{layer}.part{part}" for part in range(9) for layer in range(12))
    found = replace(inspect(FINETUNED), odd_keys=(OddKeys("strange", keys), OddKeys("bad", ("a\x1b[31m",))), notes=())
    lines = words(printed(screen(found, 1, False), width))
    at = lines.index("108 strange")
    assert lines[at + 1 : at + 6] == [*(f"layers.{{0..11}}.part{part}" for part in range(4)), "… and 5 more"]
    assert lines[at + 6 : at + 8] == ["1 bad", "a\\x1b[31m"]


def test_shared_storages():
    keys = tuple(f"p{number}" for number in range(300))
    shared = (SharedStorage(("q", "qkv"), 1000, ("q", "qkv")), SharedStorage(keys, 10**9, ()))
    lines = words(printed(screen(replace(inspect(FINETUNED), shared=shared), 1, False), 120))
    at = lines.index("different views of one storage")
    assert lines[at + 1 : at + 3] == [
        "1 kB q, qkv: q and qkv overlap",
        "1 GB p0, p1, p2, p3 and 296 more: side by side",
    ]


def test_a_config_is_escaped_and_bounded():
    config = [Setting("cfg", f"field{number}", number) for number in range(5000)]
    config += [Setting("args", "a\x1b[31m", "b\x1b[31m\nc"), Setting("args", "long", "x" * 10_000)]
    found = replace(inspect(FINETUNED), config=tuple(config))
    text = printed(screen(found, 1, False), terminal=True)
    assert ("field1999" in text, "field2000" in text, "… and 3,000 more" in text) == (True, False, True)
    lines = words(printed(screen(found, 1, False), 120))
    assert "field4999 4999" in lines
    assert "a\\x1b[31m b\\x1b[31m\\x0ac" in lines
    assert sum(line.count("x") for line in lines if "xxxxx" in line) == 199


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, " -"),
        (0.0, " 0"),
        (-0.5, "-0.5"),
        (1.23456, " 1.235"),
        (0.00012345, " 1.234e-4"),
        (-1.2344e-7, "-1.234e-7"),
        (123456.7, " 1.235e5"),
        (5e-324, " 4.941e-324"),
        (250001, " 250001"),
        (-(2**63), "-9223372036854775808"),
    ],
)
def test_numbers(value: float | None, text: str):
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0%"), (1, "100%"), (1e-9, "<0.1%"), (1 - 1e-9, ">99.9%"), (0.125, "12.5%"), (0.9989, "99.9%")],
)
def test_shares_are_none_or_all_only_if_they_are(share: float, text: str):
    assert percent(share) == text


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
