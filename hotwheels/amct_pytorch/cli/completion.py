"""``amct completion``: the script that completes commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from .command import command

_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@command("completion", example='eval "$(amct completion bash)"    # in ~/.bashrc')
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def COMMAND(shell: str) -> None:
    """Prints the script that completes amct's commands and options in SHELL."""
    from .main import group

    click.echo(_SHELLS[shell](group, {}, "amct", "_AMCT_COMPLETE").source())
