"""`ckptconv verify`."""

from __future__ import annotations

from pathlib import Path

import click

from ckptconv.cli.options import ALLOW_UNKNOWN, PATH


@click.command()
@click.argument("source", metavar="SRC", type=PATH)
@click.argument("output", metavar="[DST]", type=PATH, required=False)
@click.option("--forward", is_flag=True, help="Run both models too, in fairseq and in transformers, on the same ids.")
@click.option("--table", type=PATH, help="A mapping table of your own.")
@ALLOW_UNKNOWN
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def verify(
    source: Path, output: Path | None, forward: bool, table: Path | None, allow_unknown: bool, as_json: bool
) -> None:
    """Prove that DST holds what SRC holds: every tensor, read on both sides, whatever tool wrote DST.

    Without DST, SRC is the output of a conversion, and its files are held against their receipt (conversion.json).
    Exits with 1 if anything differs.

    \b
    ckptconv verify checkpoint_best.pt out-hf/
    ckptconv verify checkpoint_best.pt out-hf/ --forward
    ckptconv verify out-hf/
    ckptconv verify model.pt model.safetensors --json
    """
    from ckptconv.cli.progress import progress_bar
    from ckptconv.commands.verify import verify as prove

    with progress_bar(show=output is not None) as advance:
        report = prove(source, output, forward, table, advance, allow_unknown)
    if as_json:
        from ckptconv.report.as_json import dumps
        from ckptconv.report.verification_json import verification

        click.echo(dumps(verification(report)))
    else:
        from ckptconv.report.terminal import show
        from ckptconv.report.verification import screen

        show(screen(report))
    if not report.good:
        raise click.exceptions.Exit(1)
