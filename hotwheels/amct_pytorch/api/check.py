"""check_model: reports which layers of a model can be quantized, with problems and advice."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..backends.fx.quant_graph_module import QuantGraphModule
from ..workflows.arguments import as_example, as_inputs
from ..workflows.arguments import check_model as check_argument
from ..workflows.check.model_check import report_of_float, report_of_quantized
from ..workflows.check.model_report import ModelReport
from ..workflows.data_batches import check_call
from ..workflows.quantized import quantized_inside, the_quantized_graph
from ..workflows.torch_contexts import in_full_precision


@in_full_precision
def check_model(model: nn.Module, inputs: Any = None, *, input_data: Any = None) -> ModelReport:
    """Returns the layers of ``model`` that can be quantized, all others with the reason, trace problems, and advice.

    ``model`` is not changed. Without ``inputs`` a float model is only traced, not quantized.

    Args:
      model: Float model, or a calibrated quantized model of the FX path.
      inputs: Input of the model, a tensor or the positional arguments of its forward; None if there is none. A copy of
        a float model that can be traced is quantized with the default configuration and calibrated with ``inputs``, so
        that there is advice on ranges too. The gain of swapping the inputs of a matmul is measured on ``inputs``.
      input_data: As in ``create_quant_config_fx``: an example for the trace; default ``inputs``.

    Raises:
      CalibrationError: The quantized model is not calibrated, or ``inputs`` has labels or other arguments than forward
        takes.
      UnsupportedModelError: The model is quantized on the dynamic path, or only contains a quantized model. Whatever
        else it is refused for is a problem in the report, with ``inputs`` also what a save would be refused for.
    """
    function = "check_model"
    model = check_argument(function, model)
    given = None if inputs is None else as_inputs(inputs)
    if given is not None:
        check_call(function, "argument 'inputs'", given, model)
    if any(isinstance(module, QuantGraphModule) for module in model.modules()):
        quantized_inside(function, model)  # refuses DataParallel
        return report_of_quantized(the_quantized_graph(function, model), given)
    return report_of_float(model, given, as_example(input_data))
