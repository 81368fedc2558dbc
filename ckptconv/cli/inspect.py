"""`ckptconv inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from ckptconv.cli.forms import forms
from ckptconv.cli.options import ALLOW_UNKNOWN, PATH


@click.command()
@click.argument("source", metavar="SRC", type=PATH)
@click.option("--tensors", is_flag=True, help="List every tensor instead of the module tree.")
@click.option("--depth", type=click.IntRange(min=1), help="Show the module tree down to this depth.")
@click.option("--match", metavar="GLOB", help="Only keys like this, for instance '*.fc1.*'.")
@click.option(
    "--sort",
    type=click.Choice(["key", "size", "shape"]),
    help="Tensors (and modules, by their first one) by key, or the largest first; else as in the file.",
)
@click.option("--stats", is_flag=True, help="Read the values: min, max, mean, std, zeros, NaN and Inf per tensor.")
@click.option("--config", is_flag=True, help="Show the config: args, cfg, a config.json beside.")
@click.option("--table", type=PATH, help="A mapping table of your own.")
@ALLOW_UNKNOWN
@forms("A row per tensor: key, shape, dtype, bytes, tied_to …")
def inspect(
    source: Path,
    tensors: bool,
    depth: int | None,
    match: str | None,
    sort: str | None,
    stats: bool,
    config: bool,
    table: Path | None,
    allow_unknown: bool,
    form: str,
) -> None:
    """Show what is in a checkpoint (a file or a directory).

    Only headers are read, but for --stats; nothing in it is executed.

    \b
    ckptconv inspect checkpoint_best.pt
    ckptconv inspect xlm-roberta-base/ --depth 2
    ckptconv inspect checkpoint_best.pt --stats --match '*embed*'
    ckptconv inspect model.safetensors --json
    ckptconv inspect model.safetensors --csv > tensors.csv
    """
    from ckptconv.cli.progress import progress_bar
    from ckptconv.commands.inspect import inspect as look

    with progress_bar(show=stats) as advance:
        report = look(source, table, match, sort, stats, config, advance, allow_unknown)
    if form == "json":
        from ckptconv.report.as_json import dumps, inspection

        click.echo(dumps(inspection(report)))
    elif form == "csv":
        from ckptconv.report.as_table import tensors_csv

        click.echo(tensors_csv(report), nl=False)
    elif form == "markdown":
        from ckptconv.report.as_table import tensors_markdown, tree_markdown

        click.echo(tensors_markdown(report) if tensors or stats else tree_markdown(report, depth), nl=False)
    else:
        from ckptconv.report.inspection import screen
        from ckptconv.report.terminal import show

        show(screen(report, depth, tensors))
