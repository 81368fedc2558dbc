"""dict.txt and sentencepiece models: read as fairseq and sentencepiece read them, and errors that say where."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from ckptconv.errors import CannotWrite, CkptconvError, VocabularyMismatch
from ckptconv.vocabulary.dictionary import LARGEST_FILE, SPECIAL, Dictionary
from ckptconv.vocabulary.spm import Charsmap, PieceType, SpmModel
from tests.spm_side import SCRIPTS, trained

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = ROOT / "examples" / "deltalm-numbers" / "finetuned"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "dict.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def test_symbols_follow_the_four_special_ones() -> None:
    read = Dictionary.read(NUMBERS / "dict.de.txt")
    assert read.symbols[:7] == ("<s>", "<pad>", "</s>", "<unk>", "▁", "▁hundred", "▁thousand")
    assert (len(read), read.ids["▁thousand"]) == (163, 6)


def test_writing_gives_the_same_file_where_counts_are_one(tmp_path: Path) -> None:
    Dictionary.read(NUMBERS / "dict.de.txt").write(tmp_path / "dict.txt")
    assert (tmp_path / "dict.txt").read_bytes() == (NUMBERS / "dict.de.txt").read_bytes()


def test_a_later_symbol_overrides_where_the_line_says_so(tmp_path: Path) -> None:
    read = Dictionary.read(written(tmp_path, "a 3\nb 2\na 1 #fairseq:overwrite\n<unk> 1 #fairseq:overwrite"))
    assert read.symbols == (*SPECIAL, "a", "b", "a", "<unk>")
    assert (read.ids["a"], read.ids["<unk>"]) == (6, 7)
    read.write(tmp_path / "again.txt")
    assert Dictionary.read(tmp_path / "again.txt") == read


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1)))
def test_any_symbols_come_back(tmp_path_factory: pytest.TempPathFactory, symbols: list[str]) -> None:
    path = tmp_path_factory.mktemp("d") / "dict.txt"
    Dictionary(SPECIAL + tuple(symbols)).write(path)
    assert Dictionary.read(path).symbols == SPECIAL + tuple(symbols)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a 1\nb\n", "line 2: got 'b', expected 'symbol count'"),
        ("a 1\n\nb 1\n", "line 2: got ''"),
        ("a 1\nb x\n", "line 2: got 'b x'"),
        ("a #fairseq:overwrite\n", "line 1: got 'a #fairseq:overwrite'"),
        ("a 1\nb 1\na 1\n", "line 3: 'a' is in the dictionary already"),
        ("</s> 1\n", "line 1: '</s>' is in the dictionary already"),
        (b"a 1\n\xff 1\n", r"not UTF-8 text \(byte 4\)"),
    ],
)
def test_a_bad_line_is_told_with_its_number(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(VocabularyMismatch, match=said) as caught:
        Dictionary.read(written(tmp_path, text))
    assert caught.value.path == str(tmp_path / "dict.txt")


def test_a_file_that_is_not_there_or_is_no_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(VocabularyMismatch, match="can't be read: No such file"):
        Dictionary.read(tmp_path / "dict.txt")
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(VocabularyMismatch, match="more than 64 MB"):
        Dictionary.read(tmp_path / "huge.txt")


def test_what_dict_txt_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="line break"):
        Dictionary((*SPECIAL, "a\nb")).write(tmp_path / "dict.txt")
    with pytest.raises(CannotWrite, match="begins with"):
        Dictionary(("<pad>", "<s>", "</s>", "<unk>")).write(tmp_path / "dict.txt")
    assert not (tmp_path / "dict.txt").exists()


def test_extended_with_made_up_words_that_are_new() -> None:
    short = Dictionary((*SPECIAL, "a", "madeupword0001"))
    assert short.extended(9).symbols[6:] == ("madeupword0000", "madeupword0002", "madeupword0003")
    assert short.extended(3) == short


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model_type": "bpe", "byte_fallback": True, "vocab_size": 1200},
        {"user_defined_symbols": ["<ud>"], "control_symbols": ["<c>"], "normalization_rule_name": "identity"},
        {"add_dummy_prefix": False, "remove_extra_whitespaces": False, "treat_whitespace_as_suffix": True},
    ],
)
def test_spm_model_says_what_sentencepiece_says(tmp_path: Path, options: dict[str, object]) -> None:
    data = trained(**options)
    (tmp_path / "spm.model").write_bytes(data)
    ours, theirs = SpmModel.read(tmp_path / "spm.model"), SentencePieceProcessor(model_proto=data)
    ids = range(theirs.get_piece_size())
    assert [piece.text for piece in ours.pieces] == [theirs.id_to_piece(index) for index in ids]
    assert [piece.score for piece in ours.pieces] == [theirs.get_score(index) for index in ids]
    for kind, said in {
        PieceType.UNKNOWN: theirs.is_unknown,
        PieceType.CONTROL: theirs.is_control,
        PieceType.BYTE: theirs.is_byte,
        PieceType.UNUSED: theirs.is_unused,
    }.items():
        assert [piece.type == kind for piece in ours.pieces] == [said(index) for index in ids]
    assert ours.algorithm == options.get("model_type", "unigram")
    for name in ("byte_fallback", "treat_whitespace_as_suffix"):
        assert getattr(ours, name) == bool(options.get(name, False))
    for name in ("add_dummy_prefix", "remove_extra_whitespaces"):
        assert getattr(ours, name) == options.get(name, True)


def test_piece_types_are_protobufs() -> None:
    names = [name for name in vars(PieceType) if name.isupper()]
    theirs = ModelProto.SentencePiece.Type
    assert {name: getattr(PieceType, name) for name in names} == dict(theirs.items())


@pytest.fixture(scope="module")
def model() -> bytes:
    return (NUMBERS / "spm.model").read_bytes()


def test_a_damaged_model_is_told_as_one(model: bytes, tmp_path: Path) -> None:
    rng = random.Random(0)
    path = tmp_path / "spm.model"
    refused = 0
    for cut in [0, 1, 2, 3, *(rng.randrange(len(model)) for _ in range(60))]:
        flipped = bytearray(model[: cut or None])
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        for damaged in (model[:cut], bytes(flipped)):
            path.write_bytes(damaged)
            try:
                SpmModel.read(path)
            except CkptconvError as error:
                refused += "not a sentencepiece model" in str(error)
    assert refused > 60


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x03\x0a\x01a\x12\x02\x18\x01",  # no normaliser's rules, but well formed: the good one
        b"\x0a\x03\x0a\x01a",  # no trainer
        b"\x0b",  # a wire type that is no longer in use
        b"\xff" * 11,  # a number without an end
    ],
)
def test_protobuf_that_says_something_else(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "spm.model").write_bytes(data)
    if data.endswith(b"\x18\x01"):
        assert SpmModel.read(tmp_path / "spm.model").pieces[0].text == "a"
    else:
        with pytest.raises(VocabularyMismatch, match="is not a sentencepiece model"):
            SpmModel.read(tmp_path / "spm.model")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_charsmap_normalizes_as_sentencepiece(text: str) -> None:
    oracle, ours = ORACLE
    assert ours.normalize(text) == oracle.normalize(text)


def test_charsmap_normalizes_the_scripts_as_sentencepiece() -> None:
    oracle, ours = ORACLE
    for line in SCRIPTS:
        assert ours.normalize(line) == oracle.normalize(line)


def _bare_normalizer() -> tuple[sentencepiece.SentencePieceProcessor, Charsmap]:
    """The golden model's rules without anything done to spaces, in sentencepiece and in ours."""
    proto = ModelProto.FromString((NUMBERS / "spm.model").read_bytes())
    spec = proto.normalizer_spec
    spec.add_dummy_prefix = spec.remove_extra_whitespaces = spec.escape_whitespaces = False
    theirs = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    return theirs, Charsmap(spec.precompiled_charsmap)


ORACLE = _bare_normalizer()


@pytest.mark.parametrize("data", [b"", b"\x08\0\0\0abcd", struct.pack("<I", 3) + b"abcd"])
def test_rules_that_are_cut_short(data: bytes) -> None:
    with pytest.raises(ValueError, match="rules should have more"):
        Charsmap(data)
