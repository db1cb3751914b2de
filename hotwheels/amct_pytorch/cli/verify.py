"""``amct verify``: whether saved files still compute what was saved."""

from __future__ import annotations

import dataclasses
import json

import click

from ..oracle.digest import LayerVerdict, verify
from .command import DIFFERS, OK, command, unlimited_option


def print_verdicts(verdicts: list[LayerVerdict]) -> int:
    """Prints a line per layer and returns the exit code."""
    width = max((len(one.name) for one in verdicts), default=0)
    for verdict in verdicts:
        click.echo(f"{verdict.name:{width}}  {'ok' if verdict.is_ok else f'DIFFERS: {verdict.reason}'}")
    wrong = [one for one in verdicts if not one.is_ok]
    first = f"; the first that is not: {wrong[0].name}" if wrong else ""
    click.echo(f"{len(verdicts) - len(wrong)} of {len(verdicts)} layers ok{first}")
    return DIFFERS if wrong else OK


@command("verify", example="amct verify out/net")
@click.argument("prefix")
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
@unlimited_option
def COMMAND(prefix: str, as_json: bool, is_unlimited: bool) -> int:
    """Runs the integer network of PREFIX again and compares it with the golden file saved beside it.

    PREFIX is that of files saved with golden_inputs=..., as 'amct quantize' does. The exit code is 1 if a layer
    differs.
    """
    verdicts = verify(prefix, is_limited=not is_unlimited)
    if not as_json:
        return print_verdicts(verdicts)
    click.echo(json.dumps([dataclasses.asdict(one) for one in verdicts], indent=2))
    return OK if all(one.is_ok for one in verdicts) else DIFFERS
