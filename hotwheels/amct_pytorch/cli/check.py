"""``amct check``: what can be quantized in a model, what cannot, and what is worth changing."""

from __future__ import annotations

import click

from ..api.check import check_model
from .command import DIFFERS, OK, command
from .session import Given, takes_model


@command("check", example="amct check timm:mobilenetv3_small_100 -i images/")
@takes_model
def COMMAND(given: Given) -> int:
    """Says what can be quantized in MODEL, what stays in float and why, and what is worth changing.

    With -i a copy is quantized and calibrated with the first batch, so that there is advice on ranges too. The exit
    code is 1 if the static path cannot follow the model, or, with -i, if less than 99.9 % of its multiplications run
    on integers.
    """
    data = next(iter(given.inputs.batches())) if given.inputs.sources else None
    report = check_model(given.model, data, input_data=given.inputs.example())
    click.echo(str(report))
    return OK if report.is_static_path_possible and report.is_on_integers else DIFFERS
