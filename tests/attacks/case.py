"""What an attack is: files in a folder of their own, what is wrong with them, and how every command must end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Build = Callable[[Path], None]
COMMANDS = ("inspect", "convert", "diff", "audit", "validate")
UNSAFE, DAMAGED, UNSUPPORTED = (frozenset({kind}) for kind in ("unsafe", "damaged", "unsupported"))
NONE_OF_OURS = frozenset({"not_a_checkpoint"})
READS_VALUES = frozenset({"convert", "diff", "validate"})


@dataclass(frozen=True)
class Case:
    """One attack, or one file that is legal and odd.

    name: `group/what`. wrong: what is wrong with it, in words.
    must: `refused` (exit code 3), `read` (no command refuses it), `looked at` (what reads values refuses it, what
    reads headers doesn't), `found` (exit code 1: what is wrong is a finding), or `survived` (any of them is right).
    kinds: the kinds of error that may be told, any if empty.
    told: words in the error.
    build: makes the files in an empty folder. source: the argument of the commands, in that folder.
    options: more arguments by command. commands: those that are tried. forms: whether every form of output is.
    lines: command lines in place of all others; `{case}` stands for the case's folder, `{out}` for an empty one.
    truth: who says what the values are: `torch`, `safetensors`, or nobody.
    """

    name: str
    wrong: str
    must: str
    build: Build
    source: str = "x.pt"
    kinds: frozenset[str] = frozenset()
    told: str = ""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    commands: tuple[str, ...] = COMMANDS
    forms: bool = True
    truth: str = ""
    lines: tuple[tuple[str, ...], ...] = ()

    def exits(self, command: str) -> frozenset[int]:
        """The exit codes that `command` may end with: 0 done, 1 findings, 3 refused."""
        if self.must == "survived":
            return frozenset({0, 1, 3})
        if self.must == "found":
            return frozenset({1})
        if self.must == "refused" or (self.must == "looked at" and command in READS_VALUES):
            return frozenset({3})
        return frozenset({0, 1}) if command in ("audit", "validate") else frozenset({0})


def holding(data: bytes | Callable[[], bytes], name: str = "x.pt") -> Build:
    """A folder with that one file in it."""

    def build(folder: Path) -> None:
        (folder / name).write_bytes(data if isinstance(data, bytes) else data())

    return build


def files(contents: Mapping[str, bytes | Callable[[], bytes]]) -> Build:
    """A folder with several files in it."""

    def build(folder: Path) -> None:
        for name, data in contents.items():
            holding(data, name)(folder)

    return build


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())
