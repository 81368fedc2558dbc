"""Lint and grammar of the lines for heads, options that exclude each other, folds, names and wrappers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptconv.errors import BadTable
from ckptconv.tables.lint import lint
from ckptconv.tables.model import Table
from ckptconv.tables.parse import parse

SOUND = """
layout  hf       safetensors  -
layout  ours     torch  model
layout  ours-1   torch  model
about   ours-1   the first release
size    base     (layers==12)&(d==768)
let     i      0..layers
let     head   * main
let     rest   **
let     param  weight|bias
v,d                   emb.weight         embed.weight                "
types,d               types.weight       -                           -
prefix                h.{i}.             layers.{i}.                 layers.{i}.
d?!prenorm            out.norm.{param}   norm.{param}                "
d?prenorm             norm.{param}       norm.{param}                -
prefix                -                  -                           -
d?prenorm             norm.{param}       norm.{param}                -
d?lm_head             lm.{param}         lm.{param}                  "
labels,d?classifier   cls.{param}        heads.{head}.{param}        "
tags,d?tagger         tag.{param}        -                           -
heads     hf      lm_head classifier tagger
has       ours*   lm_head
lacks     ours*   tagger   there is none
lacks     ours-1  prenorm  norms come last
default   types   1
fold      hf      types.weight  emb.weight
create    hf      types.weight  fill  0
create    ours*   lm.{param}    fill  0
create    ours    slow.{rest}   tie  fast.{rest}
drop      ours    slow.{rest}   always  a copy
base      hf      model.
spelling  hf      gamma  weight
stranger  if      v==50265  RoBERTa
stranger  key     bert.emb.weight  BERT
words     single  <s> $A </s>
words     spm     spm.model
prefix    value   config.json:  cfg.   "
field     must    relu          act    -        -
only      classifier
field     tensors v             vocab  -        -
field     config  true          big    -        -
require   max(v==1,max(vocab==2,value))  a reason
"""


def _table(text: str) -> Table:
    return parse(text, Path("mappings/sketch.tbl"))


def test_the_sketch_is_sound():
    table = _table(SOUND)
    assert lint(table) == ()
    assert [line.layout for line in table.has] == ["ours", "ours-1"]
    assert (table.words.single, table.words.spm, table.about["ours-1"]) == (
        ("<s>", "$A", "</s>"), "spm.model", "the first release"
    )  # fmt: skip


UNSOUND = {
    "rows that can be there at once": ("d?prenorm             norm.{param}       norm.{param}                -\nd?lm",
                                       "d?pre  norm.{param}  layers.0.norm.{param}  -\nd?lm", "can be the same key"),
    "an option and none": ("d?prenorm             norm.{param}       norm.{param}                -\nprefix",
                           "d  norm.{param}  norm.{param}  -\nprefix", "stands in 2 rows"),
    "a name inside a part": ("heads.{head}.{param}", "heads.x{head}.{param}", "{head} must be a dot-separated part"),
    "a name against a word": ("d?lm_head             lm.{param}         lm.{param} ",
                              "d?lm_head  lm.{param}  heads.main.{param} ", "can be the same key"),
    "the rest against a row": ("slow.{rest}   always", "lm.{rest}   always", "can be the same key"),
    "neither fold nor drop": ("fold      hf      types.weight  emb.weight", "", "expected a line `drop hf types"),
    "a fold of nothing": ("types.weight  emb.weight\n", "types.weight  embed.weight\n", "hf has no row embed.weight"),
    "no create for what is folded": ("create    hf      types.weight  fill  0", "", "expected a line `create hf types"),
    "has without create": ("create    ours*   lm.{param}    fill  0", "", "ours always has lm.weight: expected a line"),
    "lacking without a line": ("lacks     ours*   tagger   there is none", "", "expected a line `drop hf tag.weight"),
    "lacks an unknown option": ("lacks     ours*   tagger", "lacks  ours*  tager", "no row has the option `tager`"),
    "heads that no row has": ("heads     hf      lm_head", "heads  hf  qa_head", "no row has the option `qa_head`"),
    "a size of unknown dims": ("(layers==12)&", "(depth==12)&", "`depth` is no dim or option of this table"),
    "a stranger of unknown dims": ("v==50265", "vocab==50265", "`vocab` is no dim or option of this table"),
    "a require on a field below": ("max(vocab==2,value)", "max(later==2,value)", "`later` is no dim"),
    "only on an unknown name": ("only      classifier", "only  clasifier", "`clasifier` is no dim"),
    "a fused name": ("d?lm_head             lm.{param}         lm.{param}                  \"",
                     "d?lm_head  lm.{param}  lm.{param}  lm.{i}.{param}", "share their placeholders"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_tables_are_found(name: str):
    old, new, message = UNSOUND[name]
    assert SOUND.count(old) == 1
    found = lint(_table(SOUND.replace(old, new)))
    assert any(message in finding.message for finding in found), found


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("let a *", "expected `let NAME a|b|c`"),
        ("let a ** b", "expected `let NAME a|b|c`"),
        ("d x.{rest} y.{rest} -", "a row can't have {rest}"),
        ("has ours", "expected `has LAYOUT OPTION`"),
        ("has their* lm_head", "unknown layout `their*`"),
        ("lacks ours lm_head", "expected `lacks LAYOUT OPTION REASON`"),
        ("heads hf", "expected `heads LAYOUT OPTION…`"),
        ("heads ours* lm_head", "expected one layout"),
        ("fold hf types.weight", "expected `fold LAYOUT KEY INTO_KEY`"),
        ("default types one", "expected `default DIM NUMBER`"),
        ("create hf x.weight fill zero", "`zero` is no number"),
        ("create hf x.weight copy y", "expected `create LAYOUT KEY tie OTHER_KEY`"),
        ("base hf model", "expected `base LAYOUT PREFIX.`"),
        ("spelling hf gamma", "expected `spelling LAYOUT OLD NEW`"),
        ("stranger when v==1 X", "expected `stranger key KEY NAME…`"),
        ("size base", "expected `size NAME CONDITION`"),
        ("words mask <mask>", "expected `words single|pair|appended|spm"),
        ("words bpe Tokenizer vocab.json", "expected three names after `words bpe`"),
        ("words bpe Tokenizer vocab.json ../merges.txt", "`../merges.txt` is no plain file name"),
        ("words inside by_id ids", "expected three names after `words inside`"),
        ("about hf", "expected `about LAYOUT TEXT…`"),
        ("only a b", "expected `only CONDITION`"),
        ("const ours version F32 1", "expected `const LAYOUT KEY DTYPE SHAPE VALUE"),
    ],
)
def test_lines_that_break_the_grammar_are_named(line: str, message: str):
    with pytest.raises(BadTable) as caught:
        _table(SOUND + line + "\n")
    assert message in caught.value.message
    assert f"mappings/sketch.tbl:{len((SOUND + line).splitlines())}:" in caught.value.message
