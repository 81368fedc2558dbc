"""The forms of a report: a screen for people, JSON, CSV and Markdown for everything else."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

_FORMS = ("json", "csv", "markdown")


def forms(row: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives a command --json, --csv and --markdown, of which it gets the chosen one as `form`; "screen" for none.

    row: what the rows of the CSV are, for --help.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.option("--json", "json", is_flag=True, help="One JSON document on stdout.")
        @click.option("--csv", "csv", is_flag=True, help=row)
        @click.option("--markdown", "markdown", is_flag=True, help="The report as Markdown.")
        @wraps(command)
        def chosen(**options: Any) -> Any:
            asked = [name for name in _FORMS if options.pop(name)]
            if len(asked) > 1:
                raise click.UsageError(
                    "--json, --csv and --markdown are three forms of one report; expected one of them."
                )
            return command(**options, form=asked[0] if asked else "screen")

        return chosen

    return decorate
