"""`ckptconv tables`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ckptconv.cli.options import PATH


@click.group(invoke_without_command=True)
@click.pass_context
def tables(context: click.Context) -> None:
    """List, show and prove the mapping tables.

    \b
    ckptconv tables
    ckptconv tables show deltalm
    ckptconv tables lint my.tbl
    """
    if context.invoked_subcommand is None:
        context.invoke(list_tables)


@tables.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_tables(as_json: bool = False) -> None:
    """List the families and their layouts.

    \b
    ckptconv tables list
    """
    from ckptconv.report import tables as screens
    from ckptconv.tables.catalog import tables as every

    if as_json:
        from ckptconv.report.as_json import dumps

        click.echo(dumps({"tables": [screens.summary(table) for table in every()]}))
    else:
        from ckptconv.report.terminal import show

        show(screens.listing(every()))


@tables.command()
@click.argument("family")
@click.option("--table", type=PATH, help="A mapping table of your own.")
def show(family: str, table: Path | None) -> None:
    """Show a family's layouts side by side, with shapes.

    \b
    ckptconv tables show deltalm
    """
    from ckptconv.errors import WrongUse
    from ckptconv.report import tables as screens
    from ckptconv.report.terminal import console
    from ckptconv.report.terminal import show as print_report
    from ckptconv.tables.catalog import tables as every

    known = every(table)
    found = [each for each in known if each.family == family]
    if not found:
        raise WrongUse(f"There is no family {family!r}; expected one of {', '.join(t.family for t in known)}.")
    print_report(screens.family(found[0], console().width))


@tables.command()
@click.argument("files", nargs=-1, type=PATH)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def lint(files: tuple[Path, ...], as_json: bool) -> None:
    """Prove tables sound, without a checkpoint: those that ship, or FILES. Exit code 1 if one is not.

    \b
    ckptconv tables lint
    ckptconv tables lint my.tbl
    """
    from ckptconv.report import tables as screens
    from ckptconv.tables.catalog import Tables
    from ckptconv.tables.catalog import tables as every
    from ckptconv.tables.lint import lint as prove

    checked = [(table, prove(table)) for table in (Tables(files) if files else every())]
    if as_json:
        from ckptconv.report.as_json import dumps

        click.echo(dumps({"tables": [screens.verdict(table, found) for table, found in checked]}))
    else:
        for table, found in checked:
            click.echo(screens.proof(table, found))
    sys.exit(1 if any(found for _, found in checked) else 0)
