"""The names of a model's languages, by number: from its config, in whichever of its two directions it says them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckptconv.errors import DoesNotFit
from ckptconv.tables.fields import Documents, leaves, stated
from ckptconv.tables.model import Table
from ckptconv.text import printable

_NAMES, _NUMBERS = "id2lang", "lang2id"
_MOST = 10_000


@dataclass(frozen=True)
class Languages:
    """The names by number."""

    listed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> dict[str, Any]:
        """What expressions of the table see."""
        return {
            _NAMES: dict(enumerate(self.listed)),
            _NUMBERS: {name: number for number, name in enumerate(self.listed)},
            "languages": list(self.listed),
        }


def read_languages(table: Table, layout: str, documents: Documents, count: Any) -> Languages:
    """The names of `count` languages, where the table has a field for them: the config's, else lang0, lang1 ….

    Raises DoesNotFit where the config names more or fewer, one twice, or others in its other direction.
    """
    if not any(_NAMES in leaves(field) for field in table.fields) or type(count) is not int or count < 1:
        return Languages()
    names = _names(stated(table, layout, documents, _NAMES))
    numbers = stated(table, layout, documents, _NUMBERS)
    turned = _names({number: name for name, number in numbers.items()}) if _is_by_number(numbers) else None
    if names is None and turned is None:
        if count > _MOST:
            raise DoesNotFit(f"The config says {count:,} languages and names none of them; expected {_NAMES}.")
        listed = tuple(f"lang{number}" for number in range(count))
        return Languages(listed, (f"nothing names the languages: {_NAMES} calls them lang0 …",))
    listed = names if names is not None else turned or ()
    if len(listed) != count:
        raise DoesNotFit(f"The config says {count} languages, but names {len(listed)} of them; expected as many.")
    if len(set(listed)) < count or (turned is not None and turned != listed):
        shown = ", ".join(map(printable, listed[:5]))
        raise DoesNotFit(f"{_NAMES} ({shown} …) and {_NUMBERS} contradict each other; expected one number for each.")
    return Languages(listed)


def _is_by_number(numbers: Any) -> bool:
    return isinstance(numbers, Mapping) and all(type(number) is int for number in numbers.values())


def _names(by_number: Any) -> tuple[str, ...] | None:
    """Names by number (in JSON, numbers are text) in a row; None where nothing is said."""
    if by_number is None:
        return None
    found = {str(number): name for number, name in by_number.items()} if isinstance(by_number, Mapping) else {}
    listed = tuple(found[str(number)] for number in range(len(found)) if str(number) in found)
    if not listed or len(listed) < len(found) or not all(type(name) is str for name in listed):
        shown = printable(repr(by_number))
        raise DoesNotFit(f"{_NAMES}: expected a name for each of the numbers 0, 1, 2 …, got {shown}.")
    return listed
