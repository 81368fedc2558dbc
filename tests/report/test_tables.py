"""`tables show` leaves nothing out that a table says of its layouts."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

from ckptconv.report.tables import family
from ckptconv.tables.catalog import tables
from ckptconv.tables.model import Table


def shown(table: Table, width: int) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(family(table, width))
    return " ".join(console.export_text().split())


@pytest.mark.parametrize("width", [80, 400])
@pytest.mark.parametrize("table", tables(), ids=lambda table: table.family)
def test_every_layout_and_every_reason_is_shown(table: Table, width: int):
    text = shown(table, width)
    said = [layout.name for layout in table.layouts]
    said += [line.reason for line in (*table.lacks, *table.drops)]
    said += [line.text for line in table.notes]
    said += [key for tie in table.ties for key in tie.keys]
    said += [table.words.listed.file] if table.words.listed else []
    missing = [each for each in said if re.sub(r"\s", "", each) not in text.replace(" ", "")]
    assert not missing


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.family)
def test_what_is_said_of_several_layouts_stands_once(table: Table):
    said = [f": {line.option}, {line.reason}" for line in table.lacks]
    said += [f": {line.template}, {line.when}: {line.reason}" for line in table.drops]
    text = shown(table, 10_000)
    assert {each: text.count(each) for each in said} == dict.fromkeys(said, 1)
