"""`ckptconv convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckptconv.cli.options import ALLOW_UNKNOWN, PATH, Names, Setting, Size


@click.command()
@click.argument("source", metavar="SRC", type=PATH)
@click.argument("output", metavar="DST", type=PATH)
@click.option("--to", metavar="LAYOUT", required=True, help="family/layout, a layout of SRC's family, or same.")
@click.option("--from", "layout_from", metavar="LAYOUT", help="SRC's layout, where detection is to be overruled.")
@click.option(
    "--dtype",
    type=click.Choice(["keep", "fp32", "fp16", "bf16"]),
    default="keep",
    show_default=True,
    help="Floating dtype of the output, rounded to nearest even.",
)
@click.option("--max-shard-size", type=Size(), default="5GB", show_default=True, help="Above it, HF output is sharded.")
@click.option(
    "--dict", "dictionaries", type=PATH, multiple=True, help="fairseq dict.txt; twice for separate ones, source first."
)
@click.option("--spm", type=PATH, help="The sentencepiece model.")
@click.option("--codes", type=PATH, help="The BPE codes (XLM).")
@click.option("--vocab", type=click.IntRange(min=5), metavar="N", help="Cut or extend the embeddings to N rows.")
@click.option("--max-positions", type=click.IntRange(min=1), metavar="N", help="Cut or extend to N positions.")
@click.option("--table", type=PATH, help="A mapping table of your own.")
@ALLOW_UNKNOWN
@click.option("--set", "settings", type=Setting(), multiple=True, help="A config field that no tensor shows.")
@click.option("--head", metavar="NAME", help="Which head, where DST holds one: its name, lm_head, or none.")
@click.option("--labels", type=PATH, help="The classes' names: one per line, fairseq's label dictionary, or JSON.")
@click.option("--create", multiple=True, metavar="NAME", help="Make up what SRC lacks, zeros: pooler.")
@click.option("--languages", type=Names(), default=(), metavar="A,B…", help="Keep the adapters of these only (X-MOD).")
@click.option("--dry-run", is_flag=True, help="Print the plan and where each config field comes from; write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--receipt/--no-receipt", default=True, help="Leave a conversion.json with SHA-256 of all files.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def convert(
    source: Path,
    output: Path,
    settings: tuple[tuple[str, Any], ...],
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Convert SRC to DST in another layout, and say what was mapped, tied, dropped and created.

    DST is a directory, or one file where its name ends in .pt, .safetensors or .pdparams. It appears whole or not at
    all.

    \b
    ckptconv convert checkpoint_best.pt out-hf --to deltalm/hf --dict dict.txt --spm spm.model
    ckptconv convert out-hf back/ --to fairseq
    ckptconv convert xlmr.base/ xlmr-hf --to xlmr/hf --head mnli --labels labels.txt
    ckptconv convert deltalm-base.pt out-hf --to hf --dict dict.txt --spm spm.model --dry-run
    ckptconv convert model.pt model.safetensors --to same --dtype bf16
    """
    from ckptconv.cli.progress import progress_bar
    from ckptconv.commands.convert import Options
    from ckptconv.commands.convert import convert as run

    asked = Options(set=dict(settings), **options)
    with progress_bar(show=not quiet and not dry_run) as advance:
        report = run(source, output, asked, dry_run, advance)
    if as_json:
        from ckptconv.report.as_json import conversion, dumps

        click.echo(dumps(conversion(report)))
    elif not quiet:
        from ckptconv.report.conversion import screen
        from ckptconv.report.terminal import show

        show(screen(report, dry_run))
