"""ERNIE-M's tokenizer for transformers 4.57 and 5, which no longer has one: sentencepiece, then cuts of its own.

What it does was read off transformers 4.57, models/deprecated/ernie_m/tokenization_ernie_m.py (`_tokenize`), and gives
the same ids: its pieces are cut once more, around Chinese characters and punctuation and where digits begin or end, and
looked up in vocab.txt. No tokenizer.json can do that. This file goes into a model's folder; it needs transformers and
sentencepiece only.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizer

SPACE = "\u2581"  # ▁, how sentencepiece spells a space
_ALONE = frozenset(",;:.?!~，；：。？！《》【】")


def cut(pieces: Sequence[str]) -> list[str]:
    """sentencepiece's pieces as ERNIE-M's tokens. A space goes before what is cut off, unless it is a piece of its own
    inside the text."""
    tokens: list[str] = []
    for number, piece in enumerate(pieces):
        if piece != SPACE:
            tokens += _cut(piece)
        elif 0 < number < len(pieces) - 1 and not pieces[number + 1].startswith(SPACE):
            tokens.append(piece)
    return tokens


def _cut(piece: str) -> Iterator[str]:
    start = 0
    for at in range(1, len(piece)):
        if _is_cut(piece[at - 1], piece[at]):
            if piece[start:at] != SPACE:
                yield piece[start:at]
            start = at
    yield piece[start:]


def _is_cut(before: str, after: str) -> bool:
    if _stands_alone(before) or _stands_alone(after):
        return True
    return after != SPACE and before.isdigit() != after.isdigit()


def _stands_alone(char: str) -> bool:
    return char in _ALONE or "\u4e00" <= char <= "\u9fff"


class ErnieMTokenizer(PreTrainedTokenizer):  # type: ignore[misc]
    """ERNIE-M's tokenizer. vocab_file: a token per line, by id. sentencepiece_model_ckpt: the sentencepiece model."""

    vocab_files_names: ClassVar[dict[str, str]] = {
        "vocab_file": "vocab.txt",
        "sentencepiece_model_ckpt": "sentencepiece.bpe.model",
    }
    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file: str,
        sentencepiece_model_ckpt: str,
        unk_token: str = "[UNK]",
        sep_token: str = "[SEP]",
        pad_token: str = "[PAD]",
        cls_token: str = "[CLS]",
        mask_token: str = "[MASK]",
        **kwargs: Any,
    ) -> None:
        self._files = {"vocab.txt": Path(vocab_file), "sentencepiece.bpe.model": Path(sentencepiece_model_ckpt)}
        self._sentencepiece = SentencePieceProcessor(model_file=str(sentencepiece_model_ckpt))
        lines = Path(vocab_file).read_text("utf-8").removesuffix("\n").split("\n")
        self._ids = {token: index for index, token in enumerate(lines)}
        self._tokens = dict(enumerate(lines))
        super().__init__(
            unk_token=unk_token,
            sep_token=sep_token,
            pad_token=pad_token,
            cls_token=cls_token,
            mask_token=mask_token,
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        """Tokens in vocab.txt."""
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        """Token → id, added ones too."""
        return {**self._ids, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return cut(self._sentencepiece.encode(text, out_type=str))

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, self._ids[str(self.unk_token)])

    def _convert_id_to_token(self, index: int) -> str:
        return self._tokens.get(index, str(self.unk_token))

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text that the tokens stand for."""
        return "".join(tokens).replace(SPACE, " ").strip()

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`[CLS] A [SEP]`, or `[CLS] A [SEP] [SEP] B [SEP]`."""
        first = [self.cls_token_id, *token_ids_0, self.sep_token_id]
        return first if token_ids_1 is None else [*first, self.sep_token_id, *token_ids_1, self.sep_token_id]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Zeros: the model has one kind of token."""
        return [0] * len(self.build_inputs_with_special_tokens(token_ids_0, token_ids_1))

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for every `[CLS]` and `[SEP]` around the texts, 0 for their tokens."""
        if already_has_special_tokens:
            return [int(index in self.all_special_ids) for index in token_ids_0]
        first = [1, *[0] * len(token_ids_0), 1]
        return first if token_ids_1 is None else [*first, 1, *[0] * len(token_ids_1), 1]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Both files, copied."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        targets = {Path(save_directory) / (prefix + name): path for name, path in self._files.items()}
        for target, path in targets.items():
            if target.resolve() != path.resolve():
                shutil.copyfile(path, target)
        return tuple(map(str, targets))
