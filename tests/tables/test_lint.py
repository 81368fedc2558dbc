"""`tables lint`: every table that ships is sound; every way to make one unsound is found, and said where."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptconv.errors import BadTable
from ckptconv.tables.catalog import tables
from ckptconv.tables.lint import lint
from ckptconv.tables.model import Table
from ckptconv.tables.parse import parse

SOUND = """
layout  a  safetensors  -
layout  b  torch  model
let     i      0..layers
let     param  weight|bias
shape   a                 b
v,d     emb.weight        embed.weight
d,d     out.weight        -
prefix  h.{i}.            layers.{i}.
d,d     q.{param}         in_proj_{param}[0/2]
d,d     k.{param}         in_proj_{param}[1/2]
f,d     fc.weight         fc.weight^T
tie     a  emb.weight  out.weight
equal   tied  a  emb.weight  out.weight
const   b  version  F32  1  3
create  a  out.weight  tie  emb.weight
drop    a  out.weight  always  b has none
resize  vocab  v
prefix  value  config.json:  cfg.|args.
field   tensors  v     vocab_size  -
field   config   d//2  heads       heads
"""


def _table(text: str) -> Table:
    return parse(text, Path("mappings/sketch.tbl"))


def test_the_sketch_is_sound():
    assert lint(_table(SOUND)) == ()


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.family)
def test_every_table_that_ships_is_sound(table: Table):
    assert lint(table) == ()


UNSOUND = {
    "placeholders differ": (
        "f,d     fc.weight         fc.weight^T",
        "f,d  fc.{param}  fc.weight",
        "share their placeholders",
    ),
    "index inside a part": ("prefix  h.{i}.            layers.{i}.", "prefix  h{i}.  layers{i}.", "part of its own"),
    "same key twice": ("f,d     fc.weight         fc.weight^T", "f,d  q.weight  fc.weight", "stands in 2 rows"),
    "same fused part twice": ("in_proj_{param}[1/2]", "in_proj_{param}[0/2]", "stands in 2 rows"),
    "fused part missing": ("d,d     k.{param}         in_proj_{param}[1/2]", "", "no row has"),
    "divided in two ways": ("in_proj_{param}[1/2]", "in_proj_{param}[1/3]", "divided in"),
    "number against index": (
        "v,d     emb.weight        embed.weight",
        "v,d  h.7.fc.weight  embed.weight",
        "can be the same key",
    ),
    "parts of different shape": (
        "d,d     k.{param}         in_proj_{param}[1/2]",
        "f,d  k.{param}  in_proj_{param}[1/2]",
        "different shapes",
    ),
    "drop not told": ("drop    a  out.weight  always  b has none", "", "expected a line `drop a out.weight"),
    "create not told": ("create  a  out.weight  tie  emb.weight", "", "expected a line `create a out.weight"),
    "create from nowhere": ("tie  emb.weight\ndrop", "tie  nothing.weight\ndrop", "has no row nothing.weight"),
    "const on a row's key": ("const   b  version", "const   b  embed.weight", "stands in 2 rows"),
    "ties of different width": (
        "d,d     out.weight        -",
        "d,d  out.weight  -\nf,f  x.weight  x.weight",
        "tied keys",
    ),
    "unknown dim resized": ("resize  vocab  v", "resize  vocab  w", "no row has the dim"),
    "resizable axis transposed": ("embed.weight\n", "embed.weight^T\n", "can be resized only"),
    "unknown name in a field": ("field   tensors  v  ", "field   tensors  w  ", "no dim, option"),
    "field written twice": ("heads       heads", "vocab_size  heads", "write config.json:vocab_size"),
    "equal of unknown keys": (
        "equal   tied  a  emb.weight  out.weight",
        "equal tied a emb.weight o.weight",
        "has no key",
    ),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_tables_are_found(name: str):
    old, new, message = UNSOUND[name]
    assert old in SOUND
    text = SOUND.replace(old, new)
    if name == "ties of different width":
        text = text.replace("tie     a  emb.weight  out.weight", "tie  a  emb.weight  x.weight")
    found = lint(_table(text))
    assert any(message in finding.message for finding in found), found


def test_a_swapped_pair_of_parts_breaks_no_rule_but_a_transpose_within_parts_does():
    swapped = SOUND.replace("[0/2]", "[9/2]").replace("[1/2]", "[0/2]").replace("[9/2]", "[1/2]")
    assert lint(_table(swapped)) == ()
    assert any(
        "both a part and transposed" in found.message for found in lint(_table(SOUND.replace("[1/2]", "[1/2]^T")))
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("layout a safetensors", "expected `layout NAME"),
        ("layout a safetensors -", "stands twice"),
        ("layout c safetensors -", "come before all rows"),
        ("layout c zip -", "unknown container"),
        ("let i 0..x", "stands twice"),
        ("let z a|a", "must differ"),
        ("v,d only.one", "one per layout"),
        ('v,d " b', "first column"),
        ("V! a b", "neither a directive nor a shape"),
        ("v,d a.{nope} b.{nope}", "has no `let`"),
        ("v,d a[3/2] b", "parts count from 0"),
        ("v,d a[x/2] b", "is no cell"),
        ("tie z a b", "unknown layout `z`"),
        ("tie", "expected `tie LAYOUT"),
        ("tie a b if c", "expected `tie LAYOUT"),
        ("select languages", "expected `select OPTION"),
        ("const b version F99 1 3", "unknown dtype"),
        ("const b version F32 one 3", "SHAPE must be sizes"),
        ("drop a x sometimes because", "unknown condition"),
        ("shape b a", "layouts in order"),
        ("field guess v a b", "expected `field"),
        ("create a x from y", "expected `create"),
        ("resize vocab", "expected `resize"),
        ("spare a", "expected `spare"),
        ("prefix value ../config.json: -\nfield const 1 name -", "is no plain file name"),
        ("require value==1", "expected `require"),
        ("family", "expected `family"),
    ],
)
def test_lines_that_break_the_grammar_are_named(line: str, message: str):
    with pytest.raises(BadTable) as caught:
        _table(SOUND + line + "\n")
    assert message in caught.value.message
    assert f"mappings/sketch.tbl:{len((SOUND + line).splitlines())}:" in caught.value.message


@pytest.mark.parametrize("text", ["", "# nothing\n", "layout a torch -\n"])
def test_a_file_without_layouts_or_rows_is_no_table(text: str):
    with pytest.raises(BadTable, match="no mapping table"):
        _table(text)
