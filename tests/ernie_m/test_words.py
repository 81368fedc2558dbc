"""ERNIE-M's vocabulary: the ids of its own tokenizer in a directory of XLM-R, in transformers 4 and 5, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, XLMRobertaTokenizerFast

import ckptconv
from ckptconv.errors import VocabularyMismatch
from ckptconv.hf.tokenization_ernie_m import ErnieMTokenizer, cut
from ckptconv.vocabulary.listed import listed_beside, listed_text, read_listed
from ckptconv.words import Listing, Words
from tests.ernie_m.side import NAMES, TEXTS, paddle_folder, read_json, run, with_vocabulary

ERNIE_M = transformers.__version__.startswith("4")  # transformers 5 dropped it
WORDS = Words(appended=("<mask>",), listed=Listing(("a",), "vocab.txt", "x.Y", NAMES))
GOLDEN_IDS = Path(__file__).with_name("ids.json")


def ids(tokenizer: Any, texts: Sequence[str] = TEXTS) -> list[list[int]]:
    """Of every text alone, and of each with the next."""
    return [tokenizer(text)["input_ids"] for text in texts] + [
        tokenizer(*pair)["input_ids"] for pair in pairwise(texts)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A Paddle directory with its vocabulary, and what it becomes in the other layouts."""
    base = tmp_path_factory.mktemp("words")
    source = paddle_folder(base / "ernie_m-paddle", "ErnieMModel")
    lines = with_vocabulary(source)
    _grow(source, len(lines))

    def folder(layout: str) -> Path:
        target = base / layout
        return target if target.exists() else run(source, target, f"xlmr/{layout}")

    return folder


def _grow(folder: Path, rows: int) -> None:
    """An embedding with a row for every token."""
    config = read_json(folder / "config.json")
    (folder / "config.json").unlink()
    grown = folder.parent / "grown"
    vocabulary = {name: (folder / name).read_bytes() for name in ("vocab.txt", "sentencepiece.bpe.model")}
    for name in vocabulary:
        (folder / name).unlink()
    heads = {"num_attention_heads": 4}
    run(folder, grown, "xlmr/ernie_m", vocab=rows, set=heads)
    for path in folder.iterdir():
        path.unlink()
    run(grown, folder, "xlmr/ernie_m-paddle", overwrite=True)
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": rows}))
    for name, content in vocabulary.items():
        (folder / name).write_bytes(content)


def test_the_ids_of_the_converted_tokenizer_are_those_of_transformers_4(folders: Callable[[str], Path]):
    """ids.json: what ErnieMTokenizer of transformers 4.57.6 gives (the test below), so that 5 can be tried too."""
    tokenizer = AutoTokenizer.from_pretrained(folders("hf"), trust_remote_code=True)
    assert type(tokenizer).__name__ == "ErnieMTokenizer"
    assert ids(tokenizer) == read_json(GOLDEN_IDS)
    assert [tokenizer.convert_tokens_to_ids(name) for name in NAMES] == [0, 1, 2, 3, len(tokenizer) - 1]
    assert tokenizer.padding_side == "right"


@pytest.mark.skipif(not ERNIE_M, reason="transformers 5 has no ErnieM")
@pytest.mark.parametrize("layout", ["ernie_m", "ernie_m-paddle"])
def test_the_recorded_ids_are_those_of_its_own_class(layout: str, folders: Callable[[str], Path]):
    from transformers.models.deprecated.ernie_m import ErnieMTokenizer as Original

    assert ids(Original.from_pretrained(folders(layout))) == read_json(GOLDEN_IDS)


@pytest.mark.skipif(not ERNIE_M, reason="transformers 5 has no ErnieM")
@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(st.text("▁▁aZé中国,.:!？12²٣-", min_size=1, max_size=6), min_size=1, max_size=6))
def test_pieces_are_cut_as_by_transformers_4(pieces: list[str]):
    from transformers.models.deprecated.ernie_m import ErnieMTokenizer as Original

    class Fixed:
        def EncodeAsPieces(self, text: str) -> list[str]:
            return [*pieces, "end"]  # the original fails where the last piece is a space

    original = Original.__new__(Original)
    original.sp_model_kwargs, original.sp_model = {}, Fixed()
    assert original._tokenize("") == cut([*pieces, "end"])


def test_a_space_as_the_last_piece_is_no_token():
    assert cut(["▁a", "▁"]) == ["▁a"]
    assert cut(["▁"]) == []
    assert cut([]) == []


def test_transformers_5_takes_no_other_tokenizer_silently(folders: Callable[[str], Path]):
    """Without trust_remote_code, 4.57 has a class of this name, with the same ids; 5 refuses."""
    if ERNIE_M:
        assert ids(AutoTokenizer.from_pretrained(folders("hf"))) == read_json(GOLDEN_IDS)
    else:
        with pytest.raises(ValueError, match="Couldn't instantiate the backend tokenizer"):
            AutoTokenizer.from_pretrained(folders("hf"))


@pytest.mark.parametrize("through", ["hf", "ernie_m"])
def test_there_and_back_the_files_are_the_same(through: str, folders: Callable[[str], Path], tmp_path: Path):
    back = run(folders(through), tmp_path / "back", "xlmr/ernie_m-paddle")
    for name in ("vocab.txt", "sentencepiece.bpe.model"):
        assert (back / name).read_bytes() == (folders("ernie_m-paddle") / name).read_bytes()
    assert read_json(back / "tokenizer_config.json")["tokenizer_class"] == "ErnieMTokenizer"
    assert not (back / "tokenization_ernie_m.py").exists()


def test_to_fairseq_the_dictionary_has_its_ids_and_the_report_says_what_differs(
    folders: Callable[[str], Path], tmp_path: Path
):
    report = ckptconv.convert(folders("ernie_m-paddle"), tmp_path / "fairseq", ckptconv.Options(to="xlmr/fairseq"))
    lines = (folders("ernie_m-paddle") / "vocab.txt").read_text().splitlines()
    symbols = [line.split(" ")[0] for line in (tmp_path / "fairseq/dict.txt").read_text().splitlines()]
    assert symbols == lines[4:-1]  # <mask> is added by fairseq's task
    assert any("cuts sentencepiece's pieces once more, and fairseq's doesn't" in note for note in report.notes)


def test_from_xlm_r_the_vocabulary_is_listed_and_the_report_says_what_differs(
    folders: Callable[[str], Path], tmp_path: Path
):
    plain = run(folders("ernie_m-paddle"), tmp_path / "fairseq", "xlmr/fairseq")
    xlm_r = run(plain, tmp_path / "hf", "xlmr/hf", head="none", create=("pooler",))
    assert (xlm_r / "tokenizer.json").is_file()
    report = ckptconv.convert(xlm_r, tmp_path / "ernie_m", ckptconv.Options(to="xlmr/ernie_m"))
    assert (tmp_path / "ernie_m/vocab.txt").read_text() == (folders("ernie_m-paddle") / "vocab.txt").read_text()
    assert any("its ids are others than the source's" in note for note in report.notes)
    if ERNIE_M:
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ernie_m")
        assert ids(tokenizer) == read_json(GOLDEN_IDS)
        cut_less = ids(XLMRobertaTokenizerFast.from_pretrained(xlm_r))
        assert cut_less != read_json(GOLDEN_IDS)  # or the note would be idle


def test_saving_the_tokenizer_keeps_its_files(folders: Callable[[str], Path], tmp_path: Path):
    source = folders("hf")
    tokenizer = ErnieMTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(tmp_path)
    for name in ("vocab.txt", "sentencepiece.bpe.model"):
        assert (tmp_path / name).read_bytes() == (source / name).read_bytes()
    assert ids(ErnieMTokenizer.from_pretrained(tmp_path)) == read_json(GOLDEN_IDS)
    text = "▁a中12"
    assert tokenizer.convert_tokens_to_string(list(text)) == "a中12"
    assert tokenizer.decode(tokenizer("a b")["input_ids"], skip_special_tokens=True) == "a b"
    assert tokenizer.get_special_tokens_mask([5, 6], [7]) == [1, 0, 0, 1, 1, 0, 1]
    assert sentencepiece.SentencePieceProcessor(str(source / "sentencepiece.bpe.model")).get_piece_size() > 100


# --------------------------------------------------------------------------------------------------------- the list
@given(lines=st.lists(st.text("ab▁<>[]12", min_size=1, max_size=4), unique=True), mask=st.booleans())
def test_a_list_is_read_and_written(tmp_path_factory: pytest.TempPathFactory, lines: list[str], mask: bool):
    path = tmp_path_factory.mktemp("list") / "vocab.txt"
    whole = [*NAMES[:4], *lines, *([NAMES[4]] if mask else [])]
    path.write_text("".join(f"{line}\n" for line in whole))
    found = read_listed(path, WORDS)
    assert found.symbols[:4] == ("<s>", "<pad>", "</s>", "<unk>")
    assert found.symbols[4 : 4 + len(lines)] == tuple(lines)
    assert found.symbols[-1] == "<mask>"
    assert listed_text(found, WORDS).decode() == "".join(f"{line}\n" for line in [*NAMES[:4], *lines, NAMES[4]])


def test_a_list_of_another_model_is_none_of_ours(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")  # BERT's
    assert listed_beside(tmp_path, WORDS) is None
    (tmp_path / "vocab.txt").write_bytes(b"[CLS]\n[PAD]\n[SEP]\n[UNK]\n\xff\n")
    with pytest.raises(VocabularyMismatch, match="not UTF-8 text"):
        read_listed(tmp_path / "vocab.txt", WORDS)
