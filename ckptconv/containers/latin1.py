"""Bytes that lie in a file as text: pickle's protocol 2 has none of its own, and spells them as UTF-8, a letter up to
U+00FF for every byte (CPython's Lib/pickle.py, `save_bytes`)."""

from __future__ import annotations

from ckptconv.containers.checkpoint import Storage
from ckptconv.containers.files import Source
from ckptconv.errors import Damaged

_BLOCK = 1 << 20  # bytes of text that are decoded at once
_LEADS = b"\xc2\xc3"  # the first byte of every letter from U+0080 to U+00FF


def spelt_storage(source: Source, start: int, count: int) -> Storage:
    """The bytes that `count` bytes of text from byte `start` on stand for: in blocks, each of which can be decoded by
    itself. Raises Damaged if the text is none."""
    blocks: list[Storage] = []
    at, end = start, start + count
    while at < end:
        text = source.read(at, min(_BLOCK, end - at))
        if text[-1] in _LEADS and at + len(text) < end:  # a letter that was cut
            text = text[:-1]
        blocks.append(Storage(source.path, at, len(_decoded(source, text, at)), latin1=len(text)))
        at += len(text)
    if len(blocks) == 1:
        return blocks[0]
    return Storage(source.path, start, sum(block.nbytes for block in blocks), parts=tuple(blocks))


def spelt_bytes(source: Source, block: Storage) -> bytes:
    """All bytes of such a block. Raises Damaged."""
    return _decoded(source, source.read(block.start, block.latin1 or 0), block.start)


def _decoded(source: Source, text: bytes, start: int) -> bytes:
    try:
        return text.decode("utf-8").encode("latin-1")
    except UnicodeError:
        told = f"the text at byte {start} of its pickle, which is to stand for bytes, is no such text"
        raise Damaged(f"{source.where} is damaged: {told}", source.path) from None
