"""Our dictionary against fairseq's own, on the files and on anything."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

pytest.importorskip("fairseq")

from fairseq.data import Dictionary as Fairseq
from hypothesis import given
from hypothesis import strategies as st

from ckptconv.errors import VocabularyMismatch
from ckptconv.vocabulary.dictionary import Dictionary

NUMBERS = Path(__file__).resolve().parents[2] / "examples" / "deltalm-numbers" / "finetuned"
LINE = st.from_regex(
    r"(a|b|</s>|▁x|c d|\xa0)?[ \t]{0,2}(1|-2|x|1_0)?( #fairseq:overwrite)?[ \r\x85\u2028]?", fullmatch=True
)


def test_the_golden_dictionary() -> None:
    ours, theirs = Dictionary.read(NUMBERS / "dict.en.txt"), Fairseq.load(str(NUMBERS / "dict.en.txt"))
    assert (list(ours.symbols), dict(ours.ids)) == (theirs.symbols, theirs.indices)


@given(st.lists(LINE, max_size=5), st.sampled_from(["", "\n"]))
def test_any_lines_are_read_or_refused_alike(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str
) -> None:
    path = tmp_path_factory.mktemp("d") / "dict.txt"
    path.write_bytes(("\n".join(lines) + end).encode())
    try:
        theirs = Fairseq.load(str(path))
    except (RuntimeError, ValueError):
        with pytest.raises(VocabularyMismatch):
            Dictionary.read(path)
        return
    ours = Dictionary.read(path)
    assert (list(ours.symbols), dict(ours.ids)) == (theirs.symbols, theirs.indices)


@given(st.lists(st.sampled_from(["a", "▁b", "c d", "#fairseq:overwrite", "1", "<s>"]), max_size=6))
def test_what_we_write_fairseq_reads_with_the_same_ids(symbols: list[str]) -> None:
    ours = Dictionary(("<s>", "<pad>", "</s>", "<unk>", *symbols))
    theirs = Fairseq()
    theirs.add_from_file(io.StringIO(ours.text()))
    assert (theirs.symbols, theirs.indices) == (list(ours.symbols), dict(ours.ids))
