"""`--help`: every command is listed, and has an example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from ckptconv import cli

SOURCES = {path.stem: path.read_text() for path in Path(cli.__file__).parent.glob("*.py")}
COMMANDS = sorted(name for name, text in SOURCES.items() if re.search(rf"^@click.*\ndef {name}\(", text, re.M | re.S))


def shown(*words: str) -> str:
    return CliRunner().invoke(cli.main, [*words, "--help"]).output


def test_every_command_is_listed():
    listed = shown().partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in listed if re.match(r"  [a-z]+  ", line)] == COMMANDS
    assert len(COMMANDS) == 7


@pytest.mark.parametrize(
    "words", [(), *((name,) for name in COMMANDS), ("tables", "list"), ("tables", "show"), ("tables", "lint")], ids=str
)
def test_every_command_has_an_example(words: tuple[str, ...]):
    assert " ".join(["  ckptconv", *words]) in shown(*words)


def test_exit_codes_are_told():
    assert "Exit codes" in shown()
