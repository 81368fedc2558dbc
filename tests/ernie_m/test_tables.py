"""What ERNIE-M's columns brought to the table language: heads with the same keys, notes, lists of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ckptconv import Options, convert
from ckptconv.errors import BadTable
from ckptconv.plan import Facts, choose, make_plan
from ckptconv.tables.fit import expected_keys, fit
from ckptconv.tables.lint import lint
from ckptconv.tables.model import Table
from ckptconv.tables.parse import parse
from tests.ernie_m.side import paddle_folder, run
from tests.executor import carry_out

SOUND = """
layout  a  safetensors  -
layout  b  paddle       -
let     i      0..layers
let     param  weight|bias
shape   a                 b
v,d     word              word
prefix  h.{i}.            l.{i}.
d,d     in.{param}[0/2]   q.{param}^T
d,d     in.{param}[1/2]   k.{param}^T
prefix  -                 -
d,d?pool    pool.{param}    pool.{param}^T
d,d?first   dense.{param}   pool.{param}^T
n,d?first   out.{param}     cls.{param}^T
t,d?second  cls.{param}     cls.{param}^T
heads   a  first second
heads   b  first second
note    b  (v==d)==0  odd
"""
DIMS = {"v": 5, "d": 4, "n": 2, "t": 3, "layers": 2}
KINDS = {
    "bare": {"pool": True, "first": False, "second": False},
    "first": {"pool": False, "first": True, "second": False},
    "second": {"pool": True, "first": False, "second": True},
    "second alone": {"pool": False, "first": False, "second": True},
}


def table(text: str = SOUND) -> Table:
    return parse(text, Path("mappings/own.tbl"))


def test_it_is_sound():
    assert lint(table()) == ()


TWICE = "stands in 2 rows"
UNSOUND = {
    "a head on a key that is always there": ("d,d?pool    pool.{param}    ", "d,d  pool.{param}  ", TWICE),
    "heads that nothing keeps apart": ("heads   b  first second\n", "", TWICE),
    "two rows of one head": ("t,d?second  cls.{param}     cls", "t,d?first   cls.{param}     cls", TWICE),
    "a note on a dim that isn't there": ("(v==d)==0", "width==3", "`width` is no dim or option"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_what_is_unsound_is_found(name: str):
    old, new, told = UNSOUND[name]
    assert old in SOUND
    assert any(told in finding.message for finding in lint(table(SOUND.replace(old, new))))


GRAMMAR = {
    "note b": "expected `note LAYOUT CONDITION TEXT…`",
    "note c 1 text": "unknown layout `c`",
    "words listed b vocab.txt": "expected `words listed LAYOUT FILE CODE NAME NAME NAME NAME…`",
    "words listed b ../vocab.txt m.C 1 2 3 4": "is no plain file name",
    "words listed b vocab.txt ../m.C 1 2 3 4": "is no plain file name",
    "words listed c vocab.txt m.C 1 2 3 4": "unknown layout `c`",
    "layout c onnx -": "unknown container `onnx`",
}


@pytest.mark.parametrize("line", GRAMMAR)
def test_grammar(line: str):
    text = f"{line}\n{SOUND}" if line.startswith("layout") else f"{SOUND}{line}\n"
    with pytest.raises(BadTable) as problem:
        table(text)
    assert GRAMMAR[line] in str(problem.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_fused_there_transposed_here_and_back(first: str, second: str, kind: str):
    options = KINDS[kind]
    head = next((name for name in ("first", "second") if options[name]), "")
    generator = np.random.default_rng(0)
    arrays = {
        key: generator.standard_normal(shape).astype(np.float32)
        for key, shape in expected_keys(table(), first, {**DIMS, **options})
    }
    there = _converted(first, second, arrays, head)
    if first == "a":
        for number in range(2):
            fused = arrays[f"h.{number}.in.weight"]
            np.testing.assert_array_equal(there[f"l.{number}.q.weight"], fused[:4].T)
            np.testing.assert_array_equal(there[f"l.{number}.k.weight"], fused[4:].T)
            np.testing.assert_array_equal(there[f"l.{number}.k.bias"], arrays[f"h.{number}.in.bias"][4:])
    back = _converted(second, first, there, head)
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[key], array) for key, array in arrays.items())


def _converted(first: str, second: str, arrays: dict[str, np.ndarray], head: str) -> dict[str, np.ndarray]:
    found = fit(table(), first, {key: array.shape for key, array in arrays.items()}, head=head)
    assert found.exact
    dtypes = dict.fromkeys(arrays, np.dtype("f4"))
    plan = make_plan(found, second, Facts({}, frozenset(), {}), choose(found, second), dtypes, None)
    assert not any(step.op == "transpose" for step in plan.steps if step.key.endswith("bias"))
    return carry_out(plan, arrays)


def test_which_heads_the_keys_could_be():
    def could_be(kind: str, layout: str = "b", without: str = "", head: str = "") -> tuple[str, ...]:
        shapes = dict(expected_keys(table(), layout, {**DIMS, **KINDS[kind]}))
        shapes.pop(without, None)
        return fit(table(), layout, shapes, head=head).could_be

    assert could_be("first") == could_be("second") == ("first", "second")
    assert could_be("second", head="second") == ("second", "first")
    assert could_be("bare") == could_be("second alone") == ()
    assert could_be("first", "a") == could_be("second", "a") == ()
    assert could_be("first", without="pool.weight") == ()


def test_other_weights_of_a_folder_are_taken_away(tmp_path: Path):
    """A model.safetensors would be read in place of a new model_state.pdparams, and by PaddleNLP the other way."""
    source = paddle_folder(tmp_path / "paddle", "ErnieMModel")
    hf = run(source, tmp_path / "hf", "xlmr/hf")
    convert(hf, tmp_path / "out", Options(to="xlmr/ernie_m-paddle"))
    convert(source, tmp_path / "out", Options(to="xlmr/hf", overwrite=True))
    assert not (tmp_path / "out/model_state.pdparams").exists()
    convert(hf, tmp_path / "out", Options(to="xlmr/ernie_m-paddle", overwrite=True))
    assert not (tmp_path / "out/model.safetensors").exists()
    assert (tmp_path / "out/model_state.pdparams").is_file()
