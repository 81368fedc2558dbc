"""XLM's words and BPE codes: the ids that its own way of cutting text gives, in transformers' files; and back."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.xlm.tokenization_xlm import XLMTokenizer

import ckptconv
from ckptconv.errors import VocabularyMismatch, WrongUse
from ckptconv.vocabulary.bpe import Codes, Pieces
from tests.xlm.side import GOLDEN, SPECIAL, checkpoint, original, run, saved

# The words of make_golden.py are what these codes make of a few texts: `a b count`, as fastBPE's learnbpe writes them.
CODES = "h e 9\nhe l 8\nl o</w> 7\nw o 6\nwo r 5\nl d</w> 4\nT h 3\nTh e</w> 2\né t 2\nét é</w> 1\n"
TEXT = ["hello", "world", "held", "The", "été", "low", "ho", "o", "words"]


def cut(word: str, codes: str) -> list[str]:
    """fastBPE's way (fastBPE.hpp: process_bpe): the pair that was learned first is merged first, everywhere."""
    ranks = {tuple(line.split()[:2]): rank for rank, line in enumerate(codes.splitlines())}
    pieces = [*word[:-1], word[-1] + "</w>"]
    while True:
        found = [pair for pair in pairwise(pieces) if pair in ranks]
        if not found:
            return [*(piece + "@@" for piece in pieces[:-1]), pieces[-1].removesuffix("</w>")]
        best, merged = min(found, key=ranks.__getitem__), []
        while pieces:
            two = tuple(pieces[:2]) == best
            merged.append("".join(pieces[:2]) if two else pieces[0])
            pieces = pieces[2 if two else 1 :]
        pieces = merged


def with_words(folder: Path, codes: str | None = CODES, name: str = "codes") -> Path:
    """A checkpoint whose dictionary has every piece of TEXT, and the codes beside it."""
    content = checkpoint("one language")
    pieces = dict.fromkeys(piece for word in TEXT for piece in cut(word, CODES))
    words = [*SPECIAL, *pieces]
    for key in ("embeddings.weight", "pred_layer.proj.weight", "pred_layer.proj.bias"):
        content["model"][key] = content["model"][key][:1].repeat(len(words), *[1] * (content["model"][key].dim() - 1))
    content["params"]["n_words"] = len(words)
    content["dico_id2word"] = dict(enumerate(words))
    content["dico_word2id"] = {word: number for number, word in enumerate(words)}
    content["dico_counts"] = {word: 900 - number if number > 13 else 0 for number, word in enumerate(words)}
    folder.mkdir()
    if codes is not None:
        (folder / name).write_text(codes)
    return saved(content, folder / "in.pth")


def in_transformers(folder: Path, word: str) -> list[int]:
    """What transformers' tokenizer makes of it, which cuts words off each other with sacremoses first."""
    return list(XLMTokenizer.from_pretrained(folder)(word, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("name", ["codes", "codes_en", "merges.txt", "elsewhere"])
def test_ids_are_those_of_xlms_own_way(name: str, tmp_path: Path):
    source = with_words(tmp_path / "in", name=name)
    given_codes = {"codes": source.parent / name} if name == "elsewhere" else {}
    report = ckptconv.convert(source, tmp_path / "hf", ckptconv.Options(to="xlm/hf", **given_codes))
    assert not any("merges.txt" in note for note in report.notes)
    ids = torch.load(source, weights_only=True)["dico_word2id"]
    for word in TEXT:
        assert in_transformers(tmp_path / "hf", word) == [ids[piece] for piece in cut(word, CODES)], word
    back = original(run(tmp_path / "hf", tmp_path / "back", "original"))
    assert back["dico_word2id"] == ids
    written = (tmp_path / "back" / "codes").read_text()
    assert [line.split() for line in written.splitlines()] == [[*line.split()[:2], "1"] for line in CODES.splitlines()]
    listed = (tmp_path / "back" / "vocab").read_text().splitlines()
    assert [line.split()[0] for line in listed] == list(ids)[14:]
    again = run(tmp_path / "back", tmp_path / "again", "hf")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (again / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()


def test_without_codes_there_is_a_vocabulary_and_a_word_on_the_merges(tmp_path: Path):
    source = with_words(tmp_path / "in", None)
    report = ckptconv.convert(source, tmp_path / "hf", ckptconv.Options(to="xlm/hf"))
    assert "no merges.txt was written, so the tokenizer doesn't open" in report.notes[-1]
    assert "--codes" in report.notes[-1]
    assert (tmp_path / "hf" / "vocab.json").is_file()
    assert not (tmp_path / "hf" / "merges.txt").exists()


def test_transformers_own_renaming(tmp_path: Path):
    """convert_xlm_original_pytorch_checkpoint_to_pytorch.py: words without @@ get </w> from id 14 on, and @@ goes."""
    run(with_words(tmp_path / "in"), tmp_path / "hf", "xlm/hf")
    ids = original(run(tmp_path / "hf", tmp_path / "back", "original"))["dico_word2id"]
    theirs = {s + "</w>" if s.find("@@") == -1 and i > 13 else s.replace("@@", ""): i for s, i in ids.items()}
    assert json.loads((tmp_path / "hf" / "vocab.json").read_text()) == theirs


@pytest.mark.parametrize(("words", "lowercased"), [(["the", "été", "日"], True), (["the", "The"], False)])
def test_lower_case_is_read_off_the_words(words: list[str], lowercased: bool):
    assert Pieces((*SPECIAL, *words), (), 14).lowercased == lowercased


def test_the_tokenizers_config(tmp_path: Path):
    run(saved(checkpoint("language embeddings"), tmp_path / "in.pth"), tmp_path / "hf", "xlm/hf")
    assert json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "XLMTokenizer",
        "do_lowercase_and_remove_accent": False,  # it has `The`
        "model_max_length": 512,
        "lang2id": {"en": 0, "fr": 1, "de": 2},
        "id2lang": {"0": "en", "1": "fr", "2": "de"},
    }


WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=" \n"), min_size=1, max_size=5)


@given(ends=st.sets(WORD), goes_on=st.sets(WORD))
def test_any_words_come_back(ends: set[str], goes_on: set[str]):
    words = (*SPECIAL, *dict.fromkeys([*sorted(ends - set(SPECIAL)), *(f"{word}@@" for word in sorted(goes_on))]))
    pieces = Pieces(words, (), 14)
    tokens = [word.removesuffix("@@") if word.endswith("@@") and word != "@@" else f"{word}</w>" for word in words[14:]]
    if len({*SPECIAL, *tokens}) < len(words):  # `a` and `a</w>@@` would both be `a</w>`
        with pytest.raises(VocabularyMismatch, match="two words would be"):
            pieces.vocab()
        return
    vocab = pieces.vocab()
    assert list(vocab.values()) == list(range(len(words)))
    assert Pieces.of_vocab(json.loads(json.dumps(vocab)), SPECIAL, "vocab.json").vocab() == vocab
    assert Pieces.of_entries(*pieces.entries("abc").values(), SPECIAL).words == words


def test_a_large_vocabulary(tmp_path: Path):
    content = checkpoint("one language")
    words = [*SPECIAL, *(f"w{number}" for number in range(200_000 - 14))]
    for key in ("embeddings.weight", "pred_layer.proj.weight"):
        content["model"][key] = torch.zeros(len(words), 8)
    content["model"]["pred_layer.proj.bias"] = torch.zeros(len(words))
    content["params"]["n_words"] = len(words)
    content["dico_id2word"] = dict(enumerate(words))
    content["dico_word2id"] = {word: number for number, word in enumerate(words)}
    content["dico_counts"] = dict.fromkeys(words, 3)
    run(saved(content, tmp_path / "in.pth"), tmp_path / "hf", "xlm/hf")
    vocab = json.loads((tmp_path / "hf" / "vocab.json").read_text())
    assert (len(vocab), vocab["w199985</w>"]) == (200_000, 199_999)
    assert original(run(tmp_path / "hf", tmp_path / "back", "original"))["dico_id2word"] == content["dico_id2word"]


DAMAGE = {
    "an id is missing": ("dico_id2word", lambda entry: {**entry, 99: entry[20]}, "under the ids 0, 1, 2"),
    "a word that is none": ("dico_id2word", lambda entry: {**entry, 20: 7}, "under the ids 0, 1, 2"),
    "not the special ones": ("both", {14: "<s>x", 4: "sep"}, "The word with id 4 is sep; expected XLM's <special0>"),
    "not the other way round": ("dico_word2id", lambda entry: {**entry, "lo": 3}, "the other way round"),
    "no dictionary": ("dico_word2id", lambda entry: [1, 2], "the other way round"),
    "more words than rows": ("both", {30: "more"}, "names 31 words, but the embedding has 30 rows"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_dictionary_that_is_none(name: str, tmp_path: Path):
    entry, change, said = DAMAGE[name]
    content = checkpoint("one language")
    if entry == "both":
        content["dico_id2word"] |= change
        content["dico_word2id"] = {word: number for number, word in content["dico_id2word"].items()}
    else:
        content[entry] = change(content[entry])
    with pytest.raises(VocabularyMismatch, match=said):
        run(saved(content, tmp_path / "in.pth"), tmp_path / "hf", "xlm/hf")
    assert not (tmp_path / "hf").exists()


VOCABS = {
    "no JSON": ("{", "can't be read as JSON"),
    "a list": ("[1]", "expected an object with an id for each piece"),
    "an id twice": ('{"a": 0, "b": 0}', "has an id twice"),
    "a text as id": ('{"<s>": "0"}', "expected an object with an id for each piece"),
    "deep": ("[" * 100_000, "can't be read as JSON"),
    "other special ones": ('{"<s>": 0, "<pad>": 1}', "The word with id 1 is <pad>; expected XLM's </s>"),
}


@pytest.mark.parametrize("name", VOCABS)
def test_a_vocabulary_of_transformers_that_is_none(name: str, tmp_path: Path):
    text, said = VOCABS[name]
    run(with_words(tmp_path / "in"), tmp_path / "hf", "xlm/hf")
    (tmp_path / "hf" / "vocab.json").write_text(text)
    with pytest.raises(VocabularyMismatch, match=said):
        run(tmp_path / "hf", tmp_path / "out", "xlm/original")
    report = ckptconv.convert(tmp_path / "hf" / "model.safetensors", tmp_path / "out", ckptconv.Options(to="original"))
    assert any(said in note and note.startswith("not used") for note in report.notes)


BAD_CODES = {
    "one piece": ("h e 9\nx\n", "line 2: got 'x', expected two pieces"),
    "no count": ("h e nine\n", "line 1: got 'h e nine'"),
    "not UTF-8": (b"\xff\xfe", "not UTF-8"),
    "of another model": ("q u 9\nx y 8\nz z 7\n", "codes of another vocabulary: 0% of its pairs"),
}


@pytest.mark.parametrize("name", BAD_CODES)
def test_codes_that_are_none(name: str, tmp_path: Path):
    text, said = BAD_CODES[name]
    source = with_words(tmp_path / "in", None)
    codes = source.parent / "codes"
    codes.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(VocabularyMismatch, match=said):
        run(source, tmp_path / "hf", "xlm/hf", codes=codes)
    report = ckptconv.convert(source, tmp_path / "hf", ckptconv.Options(to="xlm/hf"))  # what lies beside one file
    assert any(said in note and note.startswith("not used") for note in report.notes)


def test_a_header_line_is_no_code(tmp_path: Path):
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh e\r\ne r</w> 12\n")
    assert Codes.read(tmp_path / "merges.txt").pairs == (("h", "e"), ("e", "r</w>"))


@pytest.mark.parametrize("option", ["dictionaries", "spm"])
def test_options_of_other_families(option: str, tmp_path: Path):
    value = GOLDEN / "xlmr-dict.txt"
    with pytest.raises(WrongUse, match="--codes names"):
        run(saved(checkpoint("untied"), tmp_path / "in.pth"), tmp_path / "hf", "hf",
            **{option: (value,) if option == "dictionaries" else value})  # fmt: skip
    with pytest.raises(WrongUse, match="--codes: the models of xlmr have no byte pairs"):
        run(GOLDEN / "fairseq-0.10.2_roberta_mlm.pt", tmp_path / "hf", "hf", codes=value)
    with pytest.raises(WrongUse, match="--codes can't go with --to same"):
        run(GOLDEN / "fairseq-0.10.2_roberta_mlm.pt", tmp_path / "hf", "same", codes=value)
    with pytest.raises(VocabularyMismatch, match="is no file; expected BPE codes"):
        run(saved(checkpoint("untied"), tmp_path / "in.pth"), tmp_path / "hf", "hf", codes=tmp_path / "nothing")
