"""`validate` as a screen, as CSV and Markdown."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ckptconv.report.markup import code, csv_cell, markdown_table, prose
from ckptconv.report.terminal import Row, rows
from ckptconv.text import printable

if TYPE_CHECKING:
    from ckptconv.commands.validate import Validation
    from ckptconv.validation.findings import Finding

_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_VERDICTS = {
    "ready": ("ready: nothing stands in the way", "bold green"),
    "ready_with_warnings": ("ready, with warnings", "bold yellow"),
    "not_ready": ("not ready: the errors above come first", "bold red"),
}
_LONG = 2000


def screen(report: Validation) -> Group:
    """Every finding with what to do about it, the worst first, and the verdict."""
    head = Text(printable(report.path, _LONG), "bold")
    head.append(f"  {report.layout or 'unknown layout'}", "not bold green" if report.layout else "not bold yellow")
    found: list[Row] = [_row(finding) for finding in report.findings]
    verdict = Text(*_VERDICTS[report.verdict])
    if not found:
        return Group(head, verdict)
    body: RenderableType = rows(found, "whole", "whole", "left")
    return Group(head, Text(), body, Text(), verdict)


def _row(finding: Finding) -> Row:
    message = Text(printable(finding.message, _LONG))
    message.append(f"\n{printable(finding.hint, _LONG)}", "dim")
    return Text(finding.severity, _STYLES[finding.severity]), finding.code, message


def findings_csv(report: Validation) -> str:
    """A row per finding."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("severity", "code", "message", "hint"))
    writer.writerows(tuple(map(csv_cell, vars(finding).values())) for finding in report.findings)
    return out.getvalue()


def findings_markdown(report: Validation) -> str:
    """A table of the findings."""
    lines = [f"# {code(report.path)}", "", f"{report.layout or 'unknown layout'}: {_VERDICTS[report.verdict][0]}"]
    found = [(each.severity, code(each.code), prose(each.message), prose(each.hint)) for each in report.findings]
    if found:
        lines += ["", *markdown_table(("severity", "code", "finding", "what to do"), found)]
    return "\n".join(lines) + "\n"
