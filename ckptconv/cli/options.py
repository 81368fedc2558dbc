"""Option types that several commands share."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)

ALLOW_UNKNOWN = click.option(
    "--allow-unknown",
    is_flag=True,
    help="Read pickles that call functions of other packages; nothing is called, what they stand for isn't known.",
)

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Size(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5
    """`5GB`, `500MB`, `2GiB`, or a number of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes. Fails for anything that is no positive size."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value)
        count = int(float(match[1]) * _UNITS[match[2].upper()]) if match and match[2].upper() in _UNITS else 0
        if count <= 0:
            self.fail(f"{value!r} is no size; expected for instance 5GB or 500MB", param, ctx)
        return count


class Setting(click.ParamType):  # type: ignore[type-arg]
    """`FIELD=VALUE`; the value is JSON, or else a string."""

    name = "field=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """(field, value). Fails without a `=`."""
        name, equals, text = value.partition("=")
        if not name or not equals:
            self.fail(f"{value!r}; expected FIELD=VALUE, for instance encoder_attention_heads=12", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


class Names(click.ParamType):  # type: ignore[type-arg]
    """`en_XX,de_DE`: names between commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The names, each once. Fails where there is none."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(filter(None, value.split(","))))
        if not names:
            self.fail(f"{value!r}; expected names between commas, for instance en_XX,de_DE", param, ctx)
        return names
