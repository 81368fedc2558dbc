"""A sentencepiece normaliser, in the components of the `tokenizers` library.

tokenizers' own `Precompiled` looks at one user-perceived character at a time and takes the shortest rule that fits,
sentencepiece takes the longest from any place on. So `Precompiled` alone loses an accent now and then, and composes no
"e" + U+0301, no Hangul from jamo, no half-width ｶﾞ. sentencepiece's rules for those are Unicode's NFKC, so NFKC goes
first, kept by barriers from what sentencepiece's rules don't do, and by shields from the characters they leave alone.
Then `Precompiled` does the rest, with letters and marks, and CR and LF, held apart.
"""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Iterable
from typing import Any

from ckptconv.vocabulary.spm import Charsmap, SpmModel

SPACE = "\u2581"  # ▁, how sentencepiece spells a space
# Before a symbol that segmentation must never yield. The model meets no space (it is ▁ by then), so none matches.
HIDDEN = " "
# Unicode's noncharacters: never in a text, and no normalisation changes them.
BARRIER, *SHIELDS = map(chr, range(0xFDD0, 0xFDF0))


def normalizer(spm: SpmModel) -> dict[str, Any]:
    """The `normalizer` of a tokenizer.json that does what `spm` does before it looks for pieces.

    Rules first, then spaces (sentencepiece/src/normalizer.cc, Normalize): trimmed and joined, spelled ▁, one in front.
    """
    steps = [*_rules(spm.charsmap)]
    if spm.remove_extra_whitespaces:
        steps += [_replace_regex(r"\A +| +\z", ""), _replace_regex(" {2,}", " ")]
    steps.append(_replace(" ", SPACE))
    if spm.remove_extra_whitespaces:
        steps.append(_replace_regex(SPACE + r"+\z", ""))
    if spm.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    return {"type": "Sequence", "normalizers": steps}


def _rules(compiled: bytes) -> list[dict[str, Any]]:
    if not compiled:
        return []
    rules = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(compiled).decode("ascii")}
    exceptions = _exceptions_from_nfkc(Charsmap(compiled))
    if len(exceptions) > len(SHIELDS):  # rules of another kind, not a variant of NFKC
        return [rules]
    shields = list(zip(exceptions, SHIELDS, strict=False))
    return [
        _replace_regex(barriers(), BARRIER),
        *(_replace(char, shield) for char, shield in shields),
        {"type": "NFKC"},
        *(_replace(shield, char) for char, shield in shields),
        _replace(BARRIER, ""),
        _replace_regex(r"(?!\A)(?=[\p{M}\x{200c}\x{200d}\n])", BARRIER),
        rules,
        _replace(BARRIER, ""),
    ]


def _characters() -> list[str]:
    """Every character of the planes that have letters."""
    return [chr(code) for code in range(0x30000) if not 0xD800 <= code < 0xE000]


def _exceptions_from_nfkc(charsmap: Charsmap) -> list[str]:
    """The characters that the rules map otherwise than NFKC does (nmt_nfkc: only U+FF5E)."""
    mapped = ((char, unicodedata.normalize("NFKC", char)) for char in _characters())
    return [char for char, nfkc in mapped if nfkc != char and charsmap.normalize(char) != charsmap.normalize(nfkc)]


def barriers() -> str:
    """A regular expression for the places between two characters where NFKC must not look past the first.

    sentencepiece's rules compose only what is decomposed altogether and in order. So NFKC must not swap two marks, not
    join a mark to a letter over another mark, and not join one to a letter that is composed already. The expression
    matches between the two and consumes neither.
    """
    first: dict[int, set[str]] = {}
    last: dict[int, set[str]] = {}
    characters = _characters()
    for char in characters:
        parts = unicodedata.normalize("NFKD", char)
        first.setdefault(unicodedata.combining(parts[0]), set()).add(char)
        last.setdefault(unicodedata.combining(parts[-1]), set()).add(char)
    swapped = set().union(*(chars for order, chars in first.items() if order))
    seconds = {pair[1] for pair in map(_canonical_pair, characters) if pair}
    joining = seconds | {char for char in swapped if seconds & {*unicodedata.normalize("NFD", char)}}
    composed = {char for char in characters if len(unicodedata.normalize("NFD", char)) > 1}
    places = [(swapped - joining | composed, joining)]
    for order in sorted(first.keys() - {0}):
        places.append((set().union(*(chars for other, chars in last.items() if other > order)), first[order]))
    marks = (f"(?<={_char_class(left)})(?={_char_class(right)})" for left, right in places if left)
    return rf"(?=\p{{M}})(?:{'|'.join(marks)})|(?<=[\x{{ac00}}-\x{{d7a3}}])(?=[\x{{11a8}}-\x{{11c2}}])"


def _canonical_pair(char: str) -> str:
    """The two characters that NFC joins to `char`, or nothing."""
    pair = unicodedata.decomposition(char)
    if not pair or pair.startswith("<") or unicodedata.normalize("NFC", char) != char:
        return ""
    return "".join(chr(int(code, 16)) for code in pair.split())


def _char_class(chars: Iterable[str]) -> str:
    ranges: list[list[int]] = []
    for code in sorted(map(ord, chars)):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return f"[{''.join(_escaped(low) if low == high else f'{_escaped(low)}-{_escaped(high)}' for low, high in ranges)}]"


def _escaped(code: int) -> str:
    return f"\\x{{{code:x}}}"


def _replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _replace_regex(pattern: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": new}
