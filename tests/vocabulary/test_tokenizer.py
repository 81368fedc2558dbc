"""tokenizer.json against sentencepiece and fairseq's dictionary: the same ids for any text, and the text back."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from ckptconv.errors import Unsupported, VocabularyMismatch
from ckptconv.vocabulary.dictionary import SPECIAL, Dictionary
from ckptconv.vocabulary.from_tokenizer import export_dictionary
from ckptconv.vocabulary.spm import PieceType, SpmModel
from ckptconv.vocabulary.tokenizer import OTHER_SPACES, TokenizerReport, export_tokenizer, tokenizer_files
from tests.spm_side import ODD, Pipeline, symbols, texts, trained

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = ROOT / "examples" / "deltalm-numbers"
EXTRA = ["[de_DE]", "<2de>", "__en__", "<lang:xx>", "madeupword0000", "userword", "▁userword", "x y", "madeupword0001"]


def exported(folder: Path, model: bytes, dictionary: Dictionary, **options: Any) -> tuple[Tokenizer, TokenizerReport]:
    (folder / "spm.model").write_bytes(model)
    report = export_tokenizer(folder / "spm.model", dictionary, len(dictionary), folder, **options)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = json.loads((folder / "tokenizer_config.json").read_text())["split_special_tokens"]
    return tokenizer, report


def in_order(model: bytes) -> Dictionary:
    return Dictionary(SPECIAL + tuple(symbols(model)))


def shuffled(model: bytes, extra: Sequence[str] = (), drop: int = 0) -> Dictionary:
    rng = random.Random(1)
    listed = symbols(model)
    rng.shuffle(listed)
    listed = [*listed[drop:], *extra]
    rng.shuffle(listed)
    return Dictionary(SPECIAL + tuple(listed))


def differing(tokenizer: Tokenizer, pipeline: Pipeline, lines: list[str]) -> list[tuple[str, list[str], list[str]]]:
    return [
        (ascii(line), pipeline.pieces(line), tokenizer.encode(line).tokens)
        for line in lines
        if tokenizer.encode(line).ids != pipeline.ids(line)
    ]


def undone(tokenizer: Tokenizer, pipeline: Pipeline, lines: list[str]) -> list[tuple[str, str, str]]:
    """The lines without an unknown piece whose text decoding doesn't give back as sentencepiece does."""
    ids = ((line, pipeline.spm.encode(line)) for line in lines)
    known = [(line, pipeline.spm.decode(i)) for line, i in ids if pipeline.spm.unk_id() not in i]
    back = [(ascii(line), text, tokenizer.decode(tokenizer.encode(line).ids)) for line, text in known]
    return [each for each in back if each[1] != each[2]]


# Variants of dictionaries and models in which every id can be fairseq's.
VARIANTS: dict[str, tuple[dict[str, Any], Callable[[bytes], Dictionary]]] = {
    "in order": ({}, in_order),
    "shuffled": ({}, shuffled),
    "extra": ({}, lambda model: shuffled(model, EXTRA)),
    "overridden": ({}, lambda model: Dictionary((*in_order(model).symbols, *symbols(model)[:9], "<unk>", "</s>"))),
    "identity": ({"normalization_rule_name": "identity"}, in_order),
    "nfkc": ({"normalization_rule_name": "nfkc"}, in_order),
    "nmt_nfkc_cf": ({"normalization_rule_name": "nmt_nfkc_cf"}, shuffled),
    "no prefix": ({"add_dummy_prefix": False}, in_order),
    "spaces kept": ({"add_dummy_prefix": False, "remove_extra_whitespaces": False}, in_order),
    "user defined": (
        {"user_defined_symbols": ["<ud>", "foo", "xy", "<s", "oxyfo"], "control_symbols": ["<c>"]},
        shuffled,
    ),
    "bytes": ({"byte_fallback": True, "vocab_size": 1100}, shuffled),
    "across spaces": ({"split_by_whitespace": False}, in_order),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_ids_are_fairseqs(variant: str, tmp_path: Path) -> None:
    options, dictionary_of = VARIANTS[variant]
    model = trained(**options)
    dictionary = dictionary_of(model)
    tokenizer, report = exported(tmp_path, model, dictionary)
    # Where there are language tokens, typed special tokens are special; test_markers… has those.
    lines = [line for line in texts() if not report.markers or "<" not in line]
    lines += ["foo a foo<ud>b xyfooxy", "<c> a<c>", "<0x41> a 三<0xE4>", "madeupword0000 userword", "［de_DE］ ＜2de＞"]
    lines += [
        "".join(random.Random(seed).choices("foxy<s> "[: 4 if report.markers else 8], k=20)) for seed in range(500)
    ]
    pipeline = Pipeline(model, dictionary)
    assert differing(tokenizer, pipeline, lines) == []
    plain = [line for line in lines if variant not in ("identity", "nfkc") or "▁" not in line]
    assert undone(tokenizer, pipeline, plain) == []
    assert report.unreachable == ()
    assert [tokenizer.token_to_id(symbol) for symbol in SPECIAL] == [0, 1, 2, 3]
    assert export_dictionary(tmp_path) == dictionary
    assert len(lines) > 2000


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Pipeline]:
    model = trained()
    dictionary = shuffled(model)
    return exported(tmp_path_factory.mktemp("plain"), model, dictionary)[0], Pipeline(model, dictionary)


# Not the noncharacters that the normaliser uses for itself.
ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=[chr(c) for c in range(0xFDD0, 0xFDF0)]))


@given(text=ANY | st.lists(st.sampled_from(ODD + texts()[:200]) | ANY, max_size=4).map("".join))
@settings(max_examples=400, deadline=None)
def test_ids_are_fairseqs_for_any_text(plain: tuple[Tokenizer, Pipeline], text: str) -> None:
    tokenizer, pipeline = plain
    assert excused(text) or differing(tokenizer, pipeline, [text]) == []


def excused(text: str) -> bool:
    """Where tokenizers' NFKC can differ from sentencepiece's rules: marks on marks, and characters since Unicode 14."""
    marks = [unicodedata.combining(char) > 0 for char in unicodedata.normalize("NFKD", text)]
    return any(map(all, pairwise(marks))) or any(char in "\ua7f1\ua7cb\u1c89" or ord(char) > 0x10D00 for char in text)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pipeline, list[str]]:
    folder = tmp_path_factory.mktemp("golden")
    dictionary = Dictionary.read(NUMBERS / "finetuned" / "dict.de.txt")
    model = (NUMBERS / "finetuned" / "spm.model").read_bytes()
    exported(folder, model, dictionary, max_length=62)
    lines = [line for lang in ("de", "en") for line in (NUMBERS / f"test.{lang}").read_text("utf-8").splitlines()]
    return folder, Pipeline(model, dictionary), lines


def test_auto_tokenizer_gives_fairseqs_ids(golden: tuple[Path, Pipeline, list[str]], tmp_path: Path) -> None:
    folder, pipeline, lines = golden
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for line in [*lines, *ODD]:
        expected = pipeline.ids(line)
        assert tokenizer(line)["input_ids"] == again(line)["input_ids"] == expected, ascii(line)
        assert tokenizer(text_target=line)["input_ids"] == tokenizer(line, text_target=line)["labels"] == expected
    for line in lines:
        assert tokenizer.decode(tokenizer(line)["input_ids"], skip_special_tokens=True) == line
    assert len(lines) == 200


def test_auto_tokenizer_has_the_models_settings(golden: tuple[Path, Pipeline, list[str]]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(golden[0])
    special = (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert special == (0, 1, 2, 3)
    assert (len(tokenizer), tokenizer.model_max_length) == (163, 62)
    assert list(tokenizer("eins")) == ["input_ids", "attention_mask"]
    batch = tokenizer(["eins", "einhunderteins"], padding=True)
    assert batch["input_ids"][0][-1] == 1
    assert batch["attention_mask"][0][-1] == 0
    one, two = tokenizer("eins")["input_ids"], tokenizer("zwei")["input_ids"]
    assert tokenizer("eins", "zwei")["input_ids"] == one + two
    assert len(tokenizer("eins " * 90, truncation=True)["input_ids"]) == 62


def test_files_are_the_same_each_time(golden: tuple[Path, Pipeline, list[str]]) -> None:
    folder, pipeline, _ = golden
    files, report = tokenizer_files(SpmModel.read(folder / "spm.model"), pipeline.dictionary, 163, 62)
    assert {name: (folder / name).read_bytes() for name in report.files} == files
    assert (report.vocab_size, report.markers, report.unreachable, report.notes) == (163, (), (), ())


def test_markers_are_special_tokens_and_made_up_words_are_not_found(tmp_path: Path) -> None:
    model = trained()
    dictionary = shuffled(model, EXTRA)
    _, report = exported(tmp_path, model, dictionary)
    assert sorted(report.markers) == ["<2de>", "<lang:xx>", "[de_DE]", "__en__"]
    assert "4 symbols of the dictionary became special tokens" in report.notes[0]
    pipeline, tokenizer = Pipeline(model, dictionary), AutoTokenizer.from_pretrained(tmp_path)
    end = [2]
    for marker in report.markers:
        expected = [dictionary.ids[marker], *pipeline.ids("der Zug")]
        assert tokenizer(f"{marker} der Zug")["input_ids"] == tokenizer(f"{marker}der Zug ")["input_ids"] == expected
        assert tokenizer.convert_tokens_to_ids(marker) == dictionary.ids[marker]
        assert tokenizer.decode(expected, skip_special_tokens=True) == "der Zug"
        assert tokenizer(marker, split_special_tokens=True)["input_ids"] == pipeline.ids(marker)
    assert tokenizer("a</s>")["input_ids"] == pipeline.ids("a")[:-1] + end + end
    spaced = "er sagte , sie kam ."
    assert tokenizer.decode(tokenizer(spaced)["input_ids"], skip_special_tokens=True) == spaced
    for word in ("madeupword0000", " madeupword0001", "userword", "a userword x y", "［de_DE］"):
        assert tokenizer(word)["input_ids"] == pipeline.ids(word)


def test_missing_pieces_are_told_and_change_only_what_has_them(tmp_path: Path) -> None:
    model = trained()
    dictionary = shuffled(model, drop=40)
    tokenizer, report = exported(tmp_path, model, dictionary)
    pipeline = Pipeline(model, dictionary)
    missing = set(symbols(model)) - set(dictionary.symbols)
    assert set(report.unreachable) <= missing
    assert len(missing) == 40
    assert f"{len(report.unreachable)} pieces of the sentencepiece model are not in the dictionary" in report.notes[0]
    lines = texts()
    has_missing = {line for line in lines if {*report.unreachable} & {*pipeline.pieces(line)}}
    assert differing(tokenizer, pipeline, [line for line in lines if line not in has_missing]) == []
    assert 0 < len(differing(tokenizer, pipeline, sorted(has_missing))) <= len(has_missing) < len(lines) / 2
    # Characters that are in no other piece are exact, next to each other too.
    alone = sorted(missing - {*report.unreachable})
    assert len(alone) > 10
    for line in ("".join(alone), "a".join(alone), "三".join(alone), " ".join(alone)):
        assert tokenizer.encode(line).ids == pipeline.ids(line)


def test_scores_of_unknown_characters_and_users_symbols_are_sentencepieces(tmp_path: Path) -> None:
    normal = {"▁": -2.0, "ab": -2.0, "bcd": -2.0, "c": -30.0, "d": -30.0, "v": -9.0, "y": -5.0, "z": -5.0, "mn": -0.05}
    proto = ModelProto.FromString(trained())
    del proto.pieces[3:]
    for text, score in normal.items():
        proto.pieces.add(piece=text, score=score)
    for text in ("vwx", "wxyz", "yz", "m", "n"):
        proto.pieces.add(piece=text, type=PieceType.USER_DEFINED, score=-7.0)
    model = proto.SerializeToString()
    dictionary = in_order(model)
    tokenizer, _ = exported(tmp_path, model, dictionary)
    assert Pipeline(model, dictionary).pieces("abcd vwxyzmn") == ["▁", "a", "bcd", "▁", "vwx", "yz", "m", "n"]
    rng = random.Random(0)
    lines = ["abcd", "vwxyz", *("".join(rng.choices("abcdvwxyzmn ", k=12)) for _ in range(500))]
    assert differing(tokenizer, Pipeline(model, dictionary), lines) == []


def test_unknown_runs_that_the_dictionary_has_are_found(tmp_path: Path) -> None:
    model = trained()
    dictionary = Dictionary((*in_order(model).symbols, "龘龘", "☃"))
    tokenizer, report = exported(tmp_path, model, dictionary)
    lines = ["☃", "a ☃ b☃c", "龘龘", "x龘龘 龘龘y", "龘", "三"]
    assert differing(tokenizer, Pipeline(model, dictionary), lines) == []
    assert "2 symbols of the dictionary are made of characters" in report.notes[0]


def test_rows_without_a_symbol_are_told(tmp_path: Path) -> None:
    dictionary = Dictionary.read(NUMBERS / "finetuned" / "dict.de.txt")
    report = export_tokenizer(NUMBERS / "finetuned" / "spm.model", dictionary, 170, tmp_path)
    assert report.notes == ("7 rows of the embedding (163 to 169) have no symbol in the dictionary",)
    with pytest.raises(VocabularyMismatch, match=r"has 163 symbols .* only 160 rows"):
        export_tokenizer(NUMBERS / "finetuned" / "spm.model", dictionary, 160, tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model_type": "bpe"}, "is a sentencepiece bpe model"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix"),
        ({"escape_whitespaces": False}, "escape_whitespaces=false"),
    ],
)
def test_models_that_cannot_be_exact_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    proto = ModelProto.FromString(trained(**{k: v for k, v in options.items() if k != "escape_whitespaces"}))
    proto.normalizer_spec.escape_whitespaces = options.get("escape_whitespaces", True)
    model = proto.SerializeToString()
    with pytest.raises(Unsupported, match=said):
        exported(tmp_path, model, in_order(model))
    assert not (tmp_path / "tokenizer.json").exists()


@pytest.mark.parametrize("left", [1, 1000, -20_000])
def test_damaged_rules_are_told(left: int) -> None:
    dictionary = Dictionary.read(NUMBERS / "finetuned" / "dict.de.txt")
    spm = SpmModel.read(NUMBERS / "finetuned" / "spm.model")
    spm = replace(spm, charsmap=spm.charsmap[:left])
    with pytest.raises(VocabularyMismatch, match="the normaliser's rules are damaged"):
        tokenizer_files(spm, dictionary, 163)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not a tokenizer's tokenizer.json"),
        ("[" * 100_000, "is not a tokenizer's tokenizer.json"),
        ("[]", "is not a tokenizer's tokenizer.json"),
        ('{"model": {"vocab": [1]}}', "is not a tokenizer.json"),
        ('{"model": {"vocab": [["\\ud800", 0]]}}', "is not a tokenizer.json that lists its tokens"),
        ('{"model": {"vocab": {"<s>": Infinity}}}', "is not a tokenizer.json that lists its tokens"),
        ('{"model": {"vocab": {"<s>": 0, "a": 2}}}', "lists a token for each id"),
        ('{"model": {"vocab": [["<pad>", 0], ["a", 0]]}}', "begins with <pad>, a, and fairseq's"),
    ],
)
def test_a_tokenizer_without_fairseqs_ids_is_told(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(VocabularyMismatch, match=said):
        export_dictionary(tmp_path)


def test_another_kind_of_tokenizer_gives_its_tokens_in_order(tmp_path: Path) -> None:
    vocab = {"▁a": 4, "<s>": 0, "<unk>": 3, "</s>": 2, "<pad>": 1}
    content = {"model": {"vocab": vocab}, "added_tokens": [{"id": 5, "content": "<mask>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert export_dictionary(tmp_path).symbols == (*SPECIAL, "▁a", "<mask>")


def test_spaces_are_those_that_str_split_cuts_at():
    assert [*OTHER_SPACES, " "] == sorted(
        (c for c in map(chr, range(0x110000)) if not c.split()), key=lambda c: c == " "
    )
