"""`ckptconv audit`."""

from __future__ import annotations

from pathlib import Path

import click

from ckptconv.cli.forms import forms
from ckptconv.cli.options import ALLOW_UNKNOWN, PATH


@click.command()
@click.argument("source", metavar="SRC", type=PATH)
@click.option(
    "--against",
    metavar="TARGET",
    required=True,
    help="A layout, an HF directory or config.json, or another checkpoint.",
)
@click.option("--class", "class_name", metavar="NAME", help="A class of transformers for TARGET's config.")
@click.option("--trust-remote-code", is_flag=True, help="Execute the model code beside TARGET's config.")
@click.option("--table", type=PATH, help="A mapping table of your own.")
@ALLOW_UNKNOWN
@forms("A row per key: list, key, got, wanted, tied_to, expected, reason.")
def audit(
    source: Path,
    against: str,
    class_name: str | None,
    trust_remote_code: bool,
    table: Path | None,
    allow_unknown: bool,
    form: str,
) -> None:
    """Say what of SRC would be missing, left over or of another shape in TARGET, why, and whether that is expected.

    Exits with 1 if it doesn't fit. A layout's name is taken as one even where there is a file of that name: write ./hf
    for the file.

    \b
    ckptconv audit xlm-roberta-base/ --against xlm-roberta-base/ --class XLMRobertaForTokenClassification
    ckptconv audit checkpoint_best.pt --against fairseq
    ckptconv audit model.safetensors --against config.json
    ckptconv audit finetuned/ --against pretrained/model.safetensors --csv
    """
    from ckptconv.commands.audit import audit as hold

    report = hold(source, against, class_name, trust_remote_code, table, allow_unknown)
    if form == "json":
        from ckptconv.report.as_json import dumps
        from ckptconv.report.audit_json import document

        click.echo(dumps(document(report)))
    else:
        from ckptconv.report import audit as render

        if form == "csv":
            click.echo(render.as_csv(report), nl=False)
        elif form == "markdown":
            click.echo(render.as_markdown(report), nl=False)
        else:
            from ckptconv.report.terminal import show

            show(render.screen(report))
    if report.verdict == "does_not_fit":
        raise click.exceptions.Exit(1)
