"""XLM-R's conventions, `<mask>` and added tokens: the same ids in transformers' own classes as in fairseq, and back.

`Pipeline` stands for fairseq here, so that these run without it;
test_words_in_fairseq.py compares it with the real one.
"""

from __future__ import annotations

import random
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, XLMRobertaTokenizer, XLMRobertaTokenizerFast

from ckptconv.errors import VocabularyMismatch
from ckptconv.vocabulary.dictionary import SPECIAL, Dictionary
from ckptconv.vocabulary.from_tokenizer import export_dictionary
from ckptconv.vocabulary.spm import SpmModel
from ckptconv.vocabulary.tokenizer import tokenizer_files
from tests.spm_side import SCRIPTS, XLMR, Pipeline, export_xlmr, marked, symbols, texts, trained, xlmr

CLASSES = (AutoTokenizer, XLMRobertaTokenizer, XLMRobertaTokenizerFast)
# What users append: entity markers, language tokens, words; then what fills the embedding up.
ADDED = ("<ent>", "newword", "[de_DE]", "zwölf", "ገጽ")
FILLED = (*ADDED, "madeupword0000", "madeupword0001")
DICTIONARIES: dict[str, tuple[str, ...]] = {"published": (), "added": ADDED, "filled": FILLED}


class Case:
    """One dictionary, exported."""

    def __init__(self, folder: Path, added: tuple[str, ...]) -> None:
        self.folder, self.model = folder, trained()
        self.dictionary = xlmr(self.model, *added)
        self.report = export_xlmr(folder, self.model, self.dictionary)
        self.tokens = ("<mask>", *(symbol for symbol in added if "madeup" not in symbol))
        self.pipeline = Pipeline(self.model, self.dictionary)


@pytest.fixture(scope="module", params=DICTIONARIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("xlmr"), DICTIONARIES[request.param])


def differing(tokenizer: Any, case: Case, lines: list[str]) -> list[tuple[str, list[str]]]:
    return [
        (ascii(line), tokenizer.convert_ids_to_tokens(tokenizer(line)["input_ids"]))
        for line in lines
        if tokenizer(line)["input_ids"] != case.pipeline.encode_with(line, case.tokens)
    ]


def untyped() -> list[str]:
    """The hard texts without those that spell a special token, which every HF tokenizer takes for one."""
    return [text for text in texts() if not any(token in text for token in SPECIAL)]


def test_the_corpus_has_more_than_twenty_scripts() -> None:
    letters = {char for line in SCRIPTS for char in line if char.isalpha()}
    assert len({unicodedata.name(char).split()[0] for char in letters}) >= 25


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_gives_fairseqs_ids_in_every_script(case: Case, cls: Any) -> None:
    tokenizer = cls.from_pretrained(case.folder)
    assert differing(tokenizer, case, SCRIPTS) == []
    assert differing(tokenizer, case, marked(case.tokens)) == []
    for first, second in zip(SCRIPTS, SCRIPTS[::-1], strict=True):
        assert tokenizer(first, second)["input_ids"] == case.pipeline.encode(first, second)


def test_auto_tokenizer_gives_fairseqs_ids_for_hard_texts(case: Case) -> None:
    lines = untyped()
    assert differing(AutoTokenizer.from_pretrained(case.folder), case, lines) == []
    assert len(lines) > 2000


@pytest.mark.parametrize("cls", CLASSES[1:])
def test_named_classes_differ_only_in_what_is_not_normalised(case: Case, cls: Any) -> None:
    # transformers 5: no composing over characters. transformers 4 without tokenizer.json's rules: U+0085 in a piece.
    found = differing(cls.from_pretrained(case.folder), case, untyped())
    lines = [eval(line) for line, _ in found]
    assert [line for line in lines if unicodedata.is_normalized("NFKC", line) and "\x85" not in line] == []
    assert len(found) < 40


@pytest.mark.parametrize("cls", CLASSES)
def test_special_tokens_are_xlm_rs(case: Case, cls: Any) -> None:
    tokenizer = cls.from_pretrained(case.folder)
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "cls", "pad", "eos", "sep", "unk", "mask")}
    mask = case.dictionary.ids["<mask>"]
    assert tokenizer.added_tokens_decoder[ids["mask"]].lstrip
    assert ids == {"bos": 0, "cls": 0, "pad": 1, "eos": 2, "sep": 2, "unk": 3, "mask": mask}
    assert len(tokenizer) == mask + len(case.tokens)
    assert tokenizer.model_max_length == 512
    for token in case.tokens:
        assert tokenizer.convert_tokens_to_ids(token) == case.dictionary.ids[token]
        kept = token in tokenizer.decode([case.dictionary.ids[token]], skip_special_tokens=True)
        assert kept == (token[0] not in "<[")
    assert list(tokenizer("eins")) == ["input_ids", "attention_mask"]


def test_the_report_tells_what_was_added(case: Case) -> None:
    markers = tuple(token for token in case.tokens if token in ("<ent>", "[de_DE]"))
    assert case.report.markers == markers
    assert case.report.added == tuple(token for token in case.tokens if token not in ("<mask>", *markers))
    assert case.report.vocab_size == case.dictionary.ids["<mask>"] + len(case.tokens)
    assert any("special tokens" in note for note in case.report.notes) == bool(markers)
    assert not any("AutoTokenizer" in note for note in case.report.notes)
    made_up = len(case.dictionary) - case.report.vocab_size
    assert f"{made_up + 1} rows of the embedding" in case.report.notes[-1]
    assert case.report.notes[-1].endswith("or a made-up one") == bool(made_up)


def test_made_up_words_on_the_end_are_no_tokens(case: Case) -> None:
    tokenizer = AutoTokenizer.from_pretrained(case.folder)
    for text in ("madeupword0000", "a madeupword0001 b"):
        assert tokenizer(text)["input_ids"] == case.pipeline.encode(text)


def test_wide_spellings_of_tokens_are_text_as_to_sentencepiece(case: Case) -> None:
    tokenizer = AutoTokenizer.from_pretrained(case.folder)
    for text in ("＜mask＞", "a ＜mask＞ｂ", "ｎｅｗｗｏｒｄ", "＜ent＞", "［de_DE］"):
        assert tokenizer(text)["input_ids"] == case.pipeline.encode(text)


def test_the_dictionary_comes_back(case: Case) -> None:
    back = export_dictionary(case.folder, XLMR)
    assert back.symbols == tuple(symbol for symbol in case.dictionary.symbols if "madeup" not in symbol)
    assert back.extended(len(case.dictionary)) == case.dictionary


@pytest.mark.parametrize("cls", CLASSES)
def test_what_transformers_saved_again_is_the_same(case: Case, cls: Any, tmp_path: Path) -> None:
    cls.from_pretrained(case.folder).save_pretrained(tmp_path)
    assert export_dictionary(tmp_path, XLMR) == export_dictionary(case.folder, XLMR)
    assert differing(AutoTokenizer.from_pretrained(tmp_path), case, SCRIPTS + marked(case.tokens)[::5]) == []


SYMBOLS = st.lists(st.sampled_from(["a", "b", "<mask>", "<x>", "</s>"]), max_size=6).map(tuple)


@given(SYMBOLS, st.sampled_from([(), ("<mask>",), ("<mask>", "<x>"), ("<x>", "<mask>")]))
def test_appended_symbols_are_left_out_only_where_they_come_back(listed: Any, appended: tuple[str, ...]) -> None:
    full = Dictionary(SPECIAL + listed).with_appended(appended)
    assert set(appended) <= full.ids.keys()
    assert full.with_appended(appended) == full
    short = full.without_appended(appended)
    assert short.with_appended(appended) == full
    assert short.without_appended(appended) == short or not appended


def test_mask_is_listed_only_where_something_follows_it() -> None:
    plain = Dictionary((*SPECIAL, "▁a", "<mask>"))
    assert plain.without_appended(XLMR.appended).text() == "▁a 1\n"
    assert plain.extended(7).without_appended(XLMR.appended).text() == "▁a 1\n<mask> 1\nmadeupword0000 1\n"


# Dictionaries in another order than HF's: the ids are still the dictionary's.
def odd(model: bytes) -> dict[str, Dictionary]:
    listed = symbols(model)
    shuffled = random.Random(1).sample(listed, len(listed))
    return {
        "shuffled": Dictionary((*SPECIAL, *shuffled, "<mask>", "newword")),
        "reversed": Dictionary((*SPECIAL, "<mask>", *reversed(listed))),
        "twice": Dictionary((*SPECIAL, *listed, "madeupword0000", "<mask>", "newword", "newword", "<ent>")),
        "mask first": Dictionary((*SPECIAL, "<mask>", *listed, "newword", "")),
        "repeated": Dictionary((*SPECIAL, *listed, "newword", "<mask>", *listed[:5], "newword", "<ent>", "</s>")),
        "fillers before": Dictionary((*SPECIAL, *listed, "madeupword0000", "<mask>", "madeupword0001", "newword")),
    }


@pytest.mark.parametrize("name", odd(trained()))
@pytest.mark.parametrize("options", [{}, {"byte_fallback": True, "vocab_size": 1100}], ids=["plain", "bytes"])
def test_any_order_keeps_the_dictionarys_ids(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = trained(**options)
    dictionary = odd(model)[name]
    report = export_xlmr(tmp_path, model, dictionary)
    assert any("AutoTokenizer" in note for note in report.notes)
    tokenizer, pipeline = AutoTokenizer.from_pretrained(tmp_path), Pipeline(model, dictionary)
    tokens = ("<mask>", *report.markers, *report.added)
    for line in [*SCRIPTS, *marked(tokens)]:
        assert tokenizer(line)["input_ids"] == pipeline.encode_with(line, tokens), ascii(line)
    assert export_dictionary(tmp_path, XLMR) == dictionary


def test_mask_may_be_a_symbol_of_the_sentencepiece_model(tmp_path: Path) -> None:
    model = trained(user_defined_symbols=["<mask>"])
    dictionary = Dictionary((*SPECIAL, *symbols(model), "newword"))
    report = export_xlmr(tmp_path, model, dictionary)
    assert (report.markers, report.added, report.unreachable) == ((), ("newword",), ())
    tokenizer, pipeline = AutoTokenizer.from_pretrained(tmp_path), Pipeline(model, dictionary)
    for line in [*SCRIPTS, *marked(("<mask>", "newword"))]:
        assert tokenizer(line)["input_ids"] == pipeline.encode_with(line, ("<mask>", "newword")), ascii(line)
    for line in ("＜mask＞", "a ＜mask＞b"):
        assert tokenizer(line)["input_ids"] == pipeline.encode(line)


def test_a_mask_without_a_row_is_told() -> None:
    spm = replace(SpmModel.read(Path(__file__).parents[2] / "examples/deltalm-numbers/finetuned/spm.model"))
    dictionary = Dictionary((*SPECIAL, *(piece.text for piece in spm.pieces[3:])))
    with pytest.raises(VocabularyMismatch, match=f"has {len(dictionary) + 1} symbols"):
        tokenizer_files(spm, dictionary, len(dictionary), words=XLMR)


def test_the_original_is_not_needed_in_transformers_5(case: Case, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(case.folder / name, tmp_path)
    assert differing(AutoTokenizer.from_pretrained(tmp_path), case, SCRIPTS) == []
    named = XLMRobertaTokenizerFast if transformers.__version__.startswith("4") else XLMRobertaTokenizer
    assert differing(named.from_pretrained(tmp_path), case, SCRIPTS) == []
