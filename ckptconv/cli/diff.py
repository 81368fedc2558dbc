"""`ckptconv diff`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ckptconv.cli.forms import forms
from ckptconv.cli.options import ALLOW_UNKNOWN, PATH


@click.command()
@click.argument("a", metavar="A", type=PATH)
@click.argument("b", metavar="B", type=PATH)
@click.option("--values", is_flag=True, help="Compare contents too: bitwise, then max abs, max relative, cosine.")
@click.option("--atol", type=float, metavar="X", help="With --values: |a - b| <= atol + rtol |b| is close enough.")
@click.option("--rtol", type=float, metavar="X", help="With --values: see --atol.")
@click.option("--ignore", multiple=True, metavar="GLOB", help="Leave out keys that fit, for instance 'lm_head.*'.")
@click.option("--table", type=PATH, help="A mapping table of your own.")
@ALLOW_UNKNOWN
@forms("A row per key: status, shapes, dtypes, how much it changed.")
def diff(
    a: Path,
    b: Path,
    values: bool,
    atol: float | None,
    rtol: float | None,
    ignore: tuple[str, ...],
    table: Path | None,
    allow_unknown: bool,
    form: str,
) -> None:
    """Compare two checkpoints: keys, shapes, dtypes, and with --values what is in them. Exit code 1 if they differ.

    Two layouts of one family are brought under the same keys first; what only one of them has by its nature (a
    constant, a buffer) is explained, and no difference.

    \b
    ckptconv diff checkpoint_best.pt out-hf/
    ckptconv diff epoch1.pt epoch2-hf/ --values
    ckptconv diff a.safetensors b.safetensors --values --rtol 1e-3 --ignore 'lm_head.*'
    ckptconv diff a.pt b.pt --values --csv > tensors.csv
    """
    from ckptconv.cli.progress import progress_bar
    from ckptconv.commands.diff import diff as compare

    with progress_bar(show=values) as advance:
        report = compare(
            a,
            b,
            values=values,
            atol=atol,
            rtol=rtol,
            ignore=ignore,
            table=table,
            progress=advance,
            allow_unknown=allow_unknown,
        )
    if form == "json":
        from ckptconv.report.as_json import dumps
        from ckptconv.report.diff_json import difference

        click.echo(dumps(difference(report)))
    elif form == "csv":
        from ckptconv.report.diff import tensors_csv

        click.echo(tensors_csv(report), nl=False)
    elif form == "markdown":
        from ckptconv.report.diff import markdown

        click.echo(markdown(report), nl=False)
    else:
        from ckptconv.report.diff import screen
        from ckptconv.report.terminal import show

        show(screen(report))
    sys.exit(1 if report.different else 0)
