"""The names of a classification head's classes: from a file the user names, a config, or fairseq's label dictionary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptconv.errors import DoesNotFit
from ckptconv.smallfiles import check_values
from ckptconv.text import printable
from ckptconv.vocabulary.dictionary import read_small

# fairseq's sentence_prediction task reads label/dict.txt below its data.
BESIDE = ("label.dict.txt", "label/dict.txt", "dict.label.txt")
_SHORT = 5
_MAX_VALUES = 200_000


@dataclass(frozen=True)
class Labels:
    """The classes' names by index; () where there is no classification head. told: whether somebody named them."""

    listed: tuple[str, ...] = ()
    told: bool = False
    notes: tuple[str, ...] = field(default=())

    @property
    def names(self) -> dict[str, Any]:
        """What expressions of the table see: transformers' id2label and label2id."""
        return {
            "id2label": {str(index): name for index, name in enumerate(self.listed)},
            "label2id": {name: index for index, name in enumerate(self.listed)},
        }

    def dictionary(self) -> str:
        """The names as fairseq's dict.txt lists them."""
        return "".join(f"{name} 1\n" for name in self.listed)


def read_labels(folder: Path, given: Path | None, config: Mapping[str, Any] | None, count: int | None) -> Labels:
    """The names of `count` classes: those in the file `given`, else the config's id2label, else those of a label
    dictionary in `folder`, else transformers' LABEL_0, LABEL_1 ….

    Raises DoesNotFit where there are more or fewer names than classes, a name comes twice, or there is no head.
    """
    if count is None:
        if given is not None:
            raise DoesNotFit(f"{printable(given.name)} names classes, but the target gets no classification head.")
        return Labels()
    if given is not None:
        return _checked(listed_labels(given), count, printable(given.name))
    if config and isinstance(config.get("id2label"), Mapping):
        named = {str(index): str(name) for index, name in config["id2label"].items()}
        listed = [named[str(index)] for index in range(len(named)) if str(index) in named]
        if listed != _made_up(len(listed)):
            return _checked(listed, count, "config.json: id2label")
    found = [folder / name for name in BESIDE if (folder / name).is_file()]
    if found:
        return _checked(listed_labels(found[0]), count, found[0].relative_to(folder).as_posix())
    return Labels(tuple(_made_up(count)))


def _made_up(count: int) -> list[str]:
    return [f"LABEL_{index}" for index in range(count)]


def listed_labels(path: Path) -> list[str]:
    """The names in a file: JSON (a list, or an object by index), fairseq's dict.txt, or a name per line."""
    try:
        text = read_small(path).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise DoesNotFit(f"{printable(path.name)} is not UTF-8 text (byte {problem.start}).", path) from None
    try:
        check_values(text.encode(), _MAX_VALUES)
        document = json.loads(text)
    except RecursionError:
        raise DoesNotFit(f"{printable(path.name)} is nested too deeply to name classes.", path) from None
    except ValueError:
        document = None
    if isinstance(document, list):
        return [str(name) for name in document]
    if isinstance(document, dict):
        return [str(document[index]) for index in sorted(document, key=lambda index: (len(index), index))]
    if text.count("\n") > _MAX_VALUES:
        raise DoesNotFit(f"{printable(path.name)} has over {_MAX_VALUES:,} lines: too many for classes.", path)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    words = [line.rpartition(" ") for line in lines]
    if all(name and count.isdecimal() for name, _, count in words):
        # fairseq pads its dictionaries with made-up words
        return [name for name, _, _ in words if not name.startswith("madeupword")]
    return lines


def _checked(listed: Sequence[str], count: int, where: str) -> Labels:
    shown = ", ".join(map(printable, listed[:_SHORT])) + (" …" if len(listed) > _SHORT else "")
    if len(listed) != count:
        raise DoesNotFit(f"{where} names {len(listed)} classes ({shown}), but the head has {count}; expected as many.")
    if len(set(listed)) < len(listed):
        raise DoesNotFit(f"{where} names a class twice ({shown}); expected {count} different names.")
    return Labels(tuple(listed), told=True, notes=(f"the classes' names are those of {where}: {shown}",))
