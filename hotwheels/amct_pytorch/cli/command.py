"""Command: the base of all commands of ``amct``: an example in the help, ``--debug``, an exit code."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import click

OK, DIFFERS, BAD_INPUT = 0, 1, 2
# In examples: a quantized model.
QUANTIZED = "my_package.net.build -w out/net.pt --quant_config out/config.json"
DEBUG = "--debug"
_Function = TypeVar("_Function", bound=Callable[..., Any])
_CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def debug_option() -> click.Option:
    """Returns the option ``--debug`` for the help; `main` itself looks for it, at any position."""
    return click.Option([DEBUG], is_flag=True, expose_value=False, help="Show the traceback of an error.")


def unlimited_option(function: _Function) -> _Function:
    """Adds ``--unlimited``, the argument ``is_unlimited`` of the function."""
    text = "Trust the files: no limit of memory and time."
    return click.option("--unlimited", "is_unlimited", is_flag=True, help=text)(function)


class Command(click.Command):
    """A command whose function returns the exit code, None for 0."""

    def __init__(self, example: str = "", notes: str = "", **options: Any) -> None:
        """Makes a command.

        Args:
          example: Shell commands, shown at the end of the help.
          notes: Lines of the help that are shown unchanged; other lines are wrapped.
          **options: Of click.Command.
        """
        if notes:
            options["help"] = f"{inspect.cleandoc(options['help'])}\n\n\b\n{notes}"
        options["epilog"] = "\b\nExample:\n" + "\n".join(f"  {line}" for line in example.splitlines())
        super().__init__(context_settings=_CONTEXT, **options)
        self.params.append(debug_option())


def command(name: str, example: str, notes: str = "") -> Callable[[Callable[..., int | None]], Command]:
    """Makes a function a `Command`; its docstring is the help."""
    return click.command(name, cls=Command, example=example, notes=notes)
