"""auto_quantize: finds a configuration by itself."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ConfigError
from ..files import FileSet, check_folder, check_target
from ..log import get_logger, one_line_per_cause
from ..plan.cost_model import read_cost_model
from ..report.html import json_text
from ..workflows.arguments import check_model, check_type
from ..workflows.auto.found import AutoQuantization
from ..workflows.auto.search import Task, search
from ..workflows.auto.settings import settings_of
from ..workflows.data_batches import check_calls, naming_other_shapes, read_batches
from ..workflows.torch_contexts import in_full_precision

_log = get_logger(__name__)


@in_full_precision
def auto_quantize(
    model: nn.Module,
    data: Iterable[Any],
    evaluate: Callable[[nn.Module], float] | None = None,
    *,
    target: float | None = None,
    budget: float | None = None,
    config_file: str | Path = "auto_quantize.yml",
    cost_model: str | Path | None = None,
    data_bits: Sequence[int] = (8, 12, 16),
    weights: Sequence[str] = ("8", "4_codebook"),
    refine: bool = False,
    seed: int = 0,
    progress: bool = True,
    resume_dir: str | Path | None = None,
) -> AutoQuantization:
    """Writes a simple configuration with the best widths for each layer of ``model``; give ``target`` or ``budget``.

    The noise that each layer alone makes at the output is measured for every width in one pass over the data; noises
    add up. An exact solver then takes the cheapest choice that reaches the target, or the quietest within the budget.
    Inputs that the converter wants in one width get one, and CUBE operations stay quantized (spec 13.1). The result is
    calibrated and measured.

    Args:
      model: Float model; it is not changed.
      data: Batches as in calibration: tensors, or tuples of the arguments of forward; a single tensor is one batch.
      evaluate: The user's metric of a model in fake_quant, larger is better. None: the SQNR at the outputs on ``data``.
      target: The least value of ``evaluate``, or SQNR in dB, at the least cost.
      budget: The highest cost, as a multiple of that of 8 bits everywhere, for the best SQNR.
      config_file: The simple configuration to write; ``<name>_report.json`` and ``.html`` beside it have the table and
        the curve.
      cost_model: A yaml file like ``plan/cost_model.yaml``; None: that file, for the CUBE.
      data_bits: Widths of data to choose from; must have 8.
      weights: Weights to choose from: "8", "4", "4_codebook"; must have "8".
      refine: Whether the configuration asks for `refine`, and is measured with it.
      seed: Of the random directions.
      progress: Whether progress bars are shown.
      resume_dir: Folder in which the sensitivities are kept; a later call, also for another target, starts from them.

    Returns:
      What was chosen, beside what each width would be everywhere, the curve and the table of the layers.

    Raises:
      ConfigError: Both or neither of ``target`` and ``budget``, a value that is not finite, or a budget of 0; a width
        or the cost model is wrong; scipy is missing; no configuration reaches the target or is within the budget.
      CalibrationError: There is no data; a batch has labels or other arguments than forward takes, other sizes than
        it computes with, or NaN.
      TypeError: ``data`` is no iterable of batches with tensors, or ``evaluate`` no function.
      UnsupportedModelError: The model cannot be traced.
    """
    function = "auto_quantize"
    check_model(function, model)
    if (target is None) == (budget is None):
        raise ConfigError(f"{function}: give either target or budget.")
    for name, value in (("target", target), ("budget", budget)):
        check_type(function, name, value, (int, float, type(None)), "a number")
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{function}: {name} is {value}; a finite number is expected.")
    if budget is not None and budget <= 0:
        raise ConfigError(f"{function}: budget is {budget:g}; allowed: above 0 (1 is the cost of 8 bits everywhere).")
    if evaluate is not None and not callable(evaluate):
        raise TypeError(f"{function}: argument 'evaluate' must be a function of the model, got {evaluate!r:.80}.")
    check_type(function, "data_bits", data_bits, (int, Sequence), "a list of widths")
    check_type(function, "weights", weights, Sequence, "a list of names")
    path = check_target(function, "config_file", config_file)
    batches = read_batches(function, "data", data)
    check_calls(function, "data", batches, model)
    task = Task(
        settings=settings_of(
            [data_bits] if isinstance(data_bits, int) else data_bits, [weights] if isinstance(weights, str) else weights
        ),
        target=target,
        budget=budget,
        evaluate=evaluate,
        costs=read_cost_model(cost_model),
        refines=refine,
        seed=seed,
        progress=progress,
        folder=None if resume_dir is None else check_folder(function, "resume_dir", resume_dir),
    )
    names = list(inspect.signature(model.forward).parameters)
    with one_line_per_cause(), naming_other_shapes(function, batches, lambda: names, {}):
        result = search(model, batches, task)
    report, page = (path.with_name(f"{path.stem}_report.{kind}") for kind in ("json", "html"))
    with FileSet() as files:
        files.write_text(path, result.text)
        files.write_text(report, json_text(result.as_dict()))
        files.write_text(page, result.as_page())
    _log.info("Wrote '%s', '%s' and '%s'.", path, report, page)
    return result
