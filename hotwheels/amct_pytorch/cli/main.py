"""The group of commands, the errors and the exit codes of ``amct``."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import MappingProxyType

import click

from ..errors import AmctError, nearest_names
from ..version import __version__
from .command import BAD_INPUT, DEBUG, debug_option

_INTERRUPTED = 130  # as shells have it for Ctrl-C
# Command -> its module, loaded when the command is run or described.
_MODULES = MappingProxyType(
    {
        "config": "config",
        "quantize": "quantize",
        "refine": "refine",
        "auto": "auto",
        "export": "export",
        "check": "check",
        "analyze": "analyze",
        "dump": "dump",
        "verify": "verify",
        "compare": "compare",
        "record": "record",
        "dot2pdf": "dot2pdf",
        "doctor": "doctor",
        "completion": "completion",
    }
)


class _Commands(click.Group):
    """A group that loads the module of a command only when the command is used."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _MODULES:
            return None
        module = importlib.import_module(f"{__package__}.{_MODULES[name]}")
        found: click.Command = module.COMMAND
        return found

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = arguments[0]
        if name not in _MODULES and not name.startswith("-"):
            raise click.UsageError(f"There is no command '{name}'. {nearest_names(name, _MODULES)}", context)
        return super().resolve_command(context, arguments)


@click.group(
    cls=_Commands,
    epilog="\b\nExample:\n  amct quantize timm:mobilenetv3_small_100 -w weights.pth -i images/ -o out\n\n"
    "Exit codes: 0 done, 1 something differs or a check fails, 2 bad input.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, "--version", prog_name="amct", message="%(prog)s %(version)s")
def group() -> None:
    """Quantizes PyTorch models for the NPUs of HiSilicon's SoCs and looks at what came out.

    MODEL is package.module.callable, file.py:callable, timm:NAME or torchvision:NAME.
    """


group.params.append(debug_option())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
      arguments: The arguments behind ``amct``; None for those of the process.
    """
    # The user's model is imported from the working directory, as with ``python -m``; a console script does not have
    # that directory in sys.path.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    given = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    try:
        return group.main(given, prog_name="amct", complete_var="_AMCT_COMPLETE", standalone_mode=False) or 0
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        return _INTERRUPTED
    except Exception as error:  # every failure prints one line and returns 2; 1 would mean that something differs
        _tell(error, DEBUG in given)
        return BAD_INPUT


def _tell(error: Exception, with_traceback: bool) -> None:
    if with_traceback:
        traceback.print_exception(error)
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", []))
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f" ('{context.command_path} --help' shows how)" if context is not None else ""
        click.echo(f"error: {' '.join(error.format_message().split())}{hint}", err=True)
    elif isinstance(error, (AmctError, OSError)):
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
    else:  # raised by the user's model, or a bug of this package: the error's class helps more than its text
        more = "" if with_traceback else f" ({DEBUG} shows the traceback)"
        click.echo(f"error: {type(error).__name__}: {error}{more}{notes}", err=True)
