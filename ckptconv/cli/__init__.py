"""The command line: one small file per command. Each parses, calls, renders and sets the exit code."""

from __future__ import annotations

import atexit
import gc
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

from ckptconv import __version__
from ckptconv.errors import CkptconvError
from ckptconv.memory import uncollected

_COMMANDS = ("inspect", "convert", "verify", "diff", "audit", "validate", "tables")
_EPILOG = """Exit codes: 0 done, nothing found; 1 findings; 2 wrong usage; 3 the input can't be read, is unsafe or
unsupported, or the output can't be written."""


class _Group(click.Group):
    """Turns every error into one sentence (with --json: one document) and an exit code; never a traceback.

    A command's module is imported when the command is used.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"ckptconv.cli.{cmd_name}"), cmd_name)
        return command

    def main(self, args: Any = None, *more: Any, **options: Any) -> Any:
        arguments = sys.argv[1:] if args is None else list(args)
        options["standalone_mode"] = False
        atexit.register(gc.freeze)  # the end of the process needs no look for cycles, which would take 7 ms
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII only still gets a report
        try:
            with uncollected():
                status = super().main(arguments, *more, **options)
            sys.exit(status or 0)
        except click.exceptions.Exit as stop:
            sys.exit(stop.exit_code)
        except click.ClickException as error:
            _fail("usage", error.format_message(), None, 2, arguments, error)
        except CkptconvError as error:
            _fail(error.kind, error.message, error.path, error.exit_code, arguments, None)
        except (KeyboardInterrupt, click.Abort):
            _fail("interrupted", "Interrupted; nothing was left half written.", None, 130, arguments, None)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(0)
        except OSError as error:
            message = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
            _fail("os", message, None, 3, arguments, None)
        except RecursionError:
            _fail("unsafe", "The input is nested too deeply to be read.", None, 3, arguments, None)
        except MemoryError:
            _fail("unsafe", "The input asks for more memory than there is.", None, 3, arguments, None)
        except Exception as error:  # a defect of ckptconv: still one sentence, and one document with --json
            told = f"ckptconv failed unexpectedly, please report it: {type(error).__name__}: {error}"
            _fail("internal", told, None, 3, arguments, None)


def _fail(
    kind: str, message: str, path: str | None, code: int, arguments: list[str], usage: click.ClickException | None
) -> None:
    from ckptconv.text import printable

    if "--json" in arguments:
        from ckptconv.report.as_json import dumps

        click.echo(dumps({"error": {"kind": kind, "message": message, "path": path}}))
    elif isinstance(usage, click.UsageError):
        usage.show()
    else:
        lines = [printable(line, 4000) for line in message.splitlines()]
        click.echo("\n".join([click.style("error: ", fg="red", bold=True) + lines[0], *lines[1:]]), err=True)
    sys.exit(code)


@click.group(cls=_Group, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ckptconv")
def main() -> None:
    """Convert, inspect and audit checkpoints of multilingual Transformers.

    \b
    ckptconv inspect checkpoint_best.pt
    ckptconv convert checkpoint_best.pt out-hf --to deltalm/hf --dict dict.txt --spm spm.model
    """
