"""`ckptconv validate`."""

from __future__ import annotations

from pathlib import Path

import click

from ckptconv.cli.forms import forms
from ckptconv.cli.options import ALLOW_UNKNOWN, PATH


@click.command()
@click.argument("source", metavar="SRC", type=PATH)
@click.option("--against", metavar="TARGET", help="A layout, an HF directory or config.json, or another checkpoint.")
@click.option("--dict", "dictionaries", type=PATH, multiple=True, help="fairseq dict.txt; twice: source first.")
@click.option("--spm", type=PATH, help="The sentencepiece model.")
@click.option("--tokenizer", type=PATH, metavar="DIR", help="A directory with a Hugging Face tokenizer.")
@click.option("--max-positions", type=click.IntRange(min=1), metavar="N", help="Tokens that the task needs.")
@click.option("--num-labels", type=click.IntRange(min=1), metavar="N", help="Classes that the task has.")
@click.option("--labels", "labels_file", type=PATH, metavar="FILE", help="The classes' names instead of their number.")
@click.option("--table", type=PATH, help="A mapping table of your own.")
@ALLOW_UNKNOWN
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings too.")
@forms("A row per finding.")
def validate(
    source: Path,
    against: str | None,
    dictionaries: tuple[Path, ...],
    spm: Path | None,
    tokenizer: Path | None,
    max_positions: int | None,
    num_labels: int | None,
    labels_file: Path | None,
    table: Path | None,
    allow_unknown: bool,
    strict: bool,
    form: str,
) -> None:
    """Check SRC before training: keys, shapes, config, vocabulary, positions, classes, and every value.

    Exits with 1 if there are errors. The codes: docs/validate.md.

    \b
    ckptconv validate checkpoint_best.pt
    ckptconv validate deltalm-base.pt --dict dict.txt --spm spm.model --max-positions 512
    ckptconv validate xlm-roberta-ner/ --labels labels.txt --json
    """
    from ckptconv.cli.progress import progress_bar
    from ckptconv.commands.validate import validate as check

    with progress_bar(show=True) as advance:
        report = check(
            source,
            against,
            dictionaries,
            spm,
            tokenizer,
            max_positions,
            num_labels,
            labels_file,
            table,
            advance,
            allow_unknown,
        )
    if form == "json":
        from ckptconv.report.as_json import dumps
        from ckptconv.report.validation_json import validation

        click.echo(dumps(validation(report)))
    elif form == "csv":
        from ckptconv.report.validation import findings_csv

        click.echo(findings_csv(report), nl=False)
    elif form == "markdown":
        from ckptconv.report.validation import findings_markdown

        click.echo(findings_markdown(report), nl=False)
    else:
        from ckptconv.report.terminal import show
        from ckptconv.report.validation import screen

        show(screen(report))
    if report.verdict == "not_ready" or (strict and report.verdict == "ready_with_warnings"):
        raise click.exceptions.Exit(1)
