"""The lines that say what one layout has and another lacks, and what a model is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ckptconv.dtypes import BY_NAME
from ckptconv.tables.draft import Bad, Draft, expect, layout_named, layouts_named
from ckptconv.tables.model import (
    Base,
    Const,
    Create,
    Default,
    Drop,
    Equal,
    Fold,
    Has,
    Heads,
    Known,
    Lacks,
    Note,
    Resize,
    Select,
    Spare,
    Spelling,
    Stranger,
    Tie,
)
from ckptconv.text import printable
from ckptconv.words import Listing

Line = Callable[[Draft, list[str], int], None]


def _tie(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) >= 4, "expected `tie LAYOUT KEY KEY… [if NAME]`")
    keys, only = (words[2:-2], words[-1]) if words[-2] == "if" else (words[2:], None)
    expect(len(keys) >= 2, "expected `tie LAYOUT KEY KEY… [if NAME]`")
    draft.ties += [Tie(line, layout, tuple(keys), only) for layout in layouts_named(draft, words[1])]


def _equal(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) == 5, "expected `equal NAME LAYOUT KEY KEY`")
    draft.equals.append(Equal(line, words[1], layout_named(draft, words[2]), (words[3], words[4])))


def _const(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) >= 6, "expected `const LAYOUT KEY DTYPE SHAPE VALUE [WITHOUT…]`, for instance `F32 1 3`")
    _, layout, key, dtype, shape, value, *without = words
    expect(dtype in BY_NAME, f"unknown dtype `{printable(dtype)}`; expected one of {', '.join(BY_NAME)}")
    try:
        sizes = tuple(int(size) for size in shape.split(","))
    except ValueError:
        raise Bad("SHAPE must be sizes such as `1` or `1,3`") from None
    const = Const(line, layout_named(draft, layout), key, dtype, sizes, _number(value), " ".join(without))
    draft.consts.append(const)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Bad(f"`{printable(text)}` is no number") from None


def _create(draft: Draft, words: list[str], line: int) -> None:
    expect(
        len(words) == 5 and words[3] in ("tie", "fill"),
        "expected `create LAYOUT KEY tie OTHER_KEY` or `create LAYOUT KEY fill NUMBER`",
    )
    _, layouts, key, how, what = words
    source, value = (what, 0.0) if how == "tie" else (None, _number(what))
    draft.creates += [Create(line, layout, key, source, value) for layout in layouts_named(draft, layouts)]


def _drop(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) >= 5, "expected `drop LAYOUT KEY always|zeros REASON`")
    expect(words[3] in ("always", "zeros"), f"unknown condition `{printable(words[3])}`; expected always or zeros")
    reason = " ".join(words[4:])
    draft.drops += [Drop(line, layout, words[2], words[3], reason) for layout in layouts_named(draft, words[1])]


def _has(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) == 3, "expected `has LAYOUT OPTION`")
    draft.has += [Has(line, layout, words[2]) for layout in layouts_named(draft, words[1])]


def _lacks(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) >= 4, "expected `lacks LAYOUT OPTION REASON`")
    reason = " ".join(words[3:])
    draft.lacks += [Lacks(line, layout, words[2], reason) for layout in layouts_named(draft, words[1])]


def _heads(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) >= 3, "expected `heads LAYOUT OPTION…`")
    draft.heads.append(Heads(line, layout_named(draft, words[1]), tuple(words[2:])))


def _select(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) == 3, "expected `select OPTION PLACEHOLDER`")
    draft.selects.append(Select(line, words[1], words[2]))


def _fold(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) == 4, "expected `fold LAYOUT KEY INTO_KEY`")
    draft.folds.append(Fold(line, layout_named(draft, words[1]), words[2], words[3]))


def _default(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) == 3 and words[2].isdecimal(), "expected `default DIM NUMBER`")
    draft.defaults.append(Default(line, words[1], int(words[2])))


def _spelling(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) == 4, "expected `spelling LAYOUT OLD NEW`")
    draft.spellings.append(Spelling(line, layout_named(draft, words[1]), words[2], words[3]))


def _base(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) == 3 and words[2].endswith("."), "expected `base LAYOUT PREFIX.`")
    draft.bases.append(Base(line, layout_named(draft, words[1]), words[2]))


def _stranger(draft: Draft, words: list[str], line: int) -> None:
    expect(
        len(words) >= 4 and words[1] in ("key", "if"),
        "expected `stranger key KEY NAME…` or `stranger if CONDITION NAME…`",
    )
    key, condition = (words[2], None) if words[1] == "key" else (None, words[2])
    draft.strangers.append(Stranger(line, key, condition, " ".join(words[3:])))


def _size(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) == 3, "expected `size NAME CONDITION`")
    draft.known.append(Known(line, words[1], words[2]))


def _resize(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) >= 3, "expected `resize OPTION[+N] DIM…`")
    draft.resizes.append(Resize(line, words[1], tuple(words[2:])))


def _spare(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) >= 3, "expected `spare LAYOUT DIM…`")
    draft.spares.append(Spare(line, layout_named(draft, words[1]), tuple(words[2:])))


def _code(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) >= 3, "expected `code LAYOUT FILE…`")
    for name in words[2:]:
        expect(not set(name) & set("/\\:"), f"`{printable(name)}` is no plain file name")
    draft.code[layout_named(draft, words[1])] = tuple(words[2:])


def _note(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) >= 4, "expected `note LAYOUT CONDITION TEXT…`")
    text = " ".join(words[3:])
    draft.notes.append(Note(line, tuple(layouts_named(draft, words[1])), words[2], text))


def _about(draft: Draft, words: list[str], line: int) -> None:
    expect(len(words) >= 3, "expected `about LAYOUT TEXT…`")
    draft.about[layout_named(draft, words[1])] = " ".join(words[2:])


def _words(draft: Draft, words: list[str], line: int) -> None:
    kinds = ("single", "pair", "appended", "spm", "bpe", "special", "inside", "listed")
    expect(len(words) >= 3 and words[1] in kinds, f"expected `words {'|'.join(kinds)} …`")
    expect(words[1] not in ("bpe", "inside") or len(words) == 5, f"expected three names after `words {words[1]}`")
    for name in {"spm": words[2:3], "bpe": words[3:], "listed": words[3:5]}.get(words[1], ()):
        expect(not set(name) & set("/\\:"), f"`{printable(name)}` is no plain file name")
    expect(words[1] != "listed" or len(words) >= 9, "expected `words listed LAYOUT FILE CODE NAME NAME NAME NAME…`")
    said: dict[str, Any] = {words[1]: words[2] if words[1] == "spm" else tuple(words[2:])}
    if words[1] == "listed":
        said = {"listed": Listing(tuple(layouts_named(draft, words[2])), words[3], words[4], tuple(words[5:]))}
    draft.words = draft.words._replace(**said)


DIFFERENCES: dict[str, Line] = {
    "tie": _tie,
    "equal": _equal,
    "const": _const,
    "create": _create,
    "drop": _drop,
    "has": _has,
    "lacks": _lacks,
    "heads": _heads,
    "select": _select,
    "fold": _fold,
    "default": _default,
    "spelling": _spelling,
    "base": _base,
    "stranger": _stranger,
    "size": _size,
    "resize": _resize,
    "spare": _spare,
    "code": _code,
    "note": _note,
    "about": _about,
    "words": _words,
}
