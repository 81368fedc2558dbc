"""The one function between text that a file chose and any terminal, HTML, CSV or markup."""

from __future__ import annotations

import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str, limit: int = 200) -> str:
    """`text` on one line with nothing that a terminal would obey: control characters, bidirectional overrides,
    lone surrogates and unassigned code points become `\\x1b`-style escapes; longer than `limit`, it ends in `…`.
    """
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    if shown.isprintable():
        return shown
    return "".join(
        _escaped(character) if unicodedata.category(character) in _HIDDEN else character for character in shown
    )


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
