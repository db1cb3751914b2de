"""Command: the base of all commands of ``amct``: an example in the help, ``--debug``, an exit code."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
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


class FiniteNumber(click.FloatRange):
    """A number of an option that is neither NaN nor infinite, which click's own types accept."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the number; fails, with the option's name, if it is outside the range or not finite."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


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

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the function; an error of the system names the option whose path it is about."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            option = self._option_of(error, ctx)
            if option is None:
                raise
            path = ctx.params[option.name or ""]
            text = f"{', '.join(option.opts)}: '{path}' cannot be used: {error.strerror} ('{error.filename}')."
            raise click.ClickException(text) from error

    def _option_of(self, error: OSError, ctx: click.Context) -> click.Parameter | None:
        """Returns the option whose path, its folder, or a file beginning like it the system refuses; else None.

        Errors of this package, which have a text of their own, have no file name.
        """
        if error.strerror is None or not isinstance(error.filename, str):
            return None
        refused = Path(error.filename).absolute()
        for one in self.params:
            path = ctx.params.get(one.name or "")
            if isinstance(path, Path) and (
                path.absolute().is_relative_to(refused) or str(refused).startswith(str(path.absolute()))
            ):
                return one
        return None


def command(name: str, example: str, notes: str = "") -> Callable[[Callable[..., int | None]], Command]:
    """Makes a function a `Command`; its docstring is the help."""
    return click.command(name, cls=Command, example=example, notes=notes)
