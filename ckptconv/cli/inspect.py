"""`ckptconv inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from ckptconv.cli.options import PATH


@click.command()
@click.argument("source", metavar="SRC", type=PATH)
@click.option("--tensors", is_flag=True, help="List every tensor instead of the module tree.")
@click.option("--depth", type=click.IntRange(min=1), help="Show the module tree down to this depth.")
@click.option("--table", type=PATH, help="A mapping table of your own.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def inspect(source: Path, tensors: bool, depth: int | None, table: Path | None, as_json: bool) -> None:
    """Show what is in a checkpoint (a file or a directory). Only headers are read; nothing in it is executed.

    \b
    ckptconv inspect checkpoint_best.pt
    ckptconv inspect xlm-roberta-base/ --depth 2
    ckptconv inspect model.safetensors --json
    """
    from ckptconv.commands.inspect import inspect as look

    report = look(source, table)
    if as_json:
        from ckptconv.report.as_json import dumps, inspection

        click.echo(dumps(inspection(report)))
    else:
        from ckptconv.report.inspection import screen
        from ckptconv.report.terminal import show

        show(screen(report, depth, tensors))
