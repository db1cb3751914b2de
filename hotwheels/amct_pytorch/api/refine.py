"""refine: better accuracy than calibration alone, without training."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..backends.dynamic.session.mode_switch import switches_inside
from ..backends.fx.quant_graph_module import names_of_inputs
from ..backends.fx.write.example_call import positional_inputs
from ..config.layers.refine_config import DEFAULT_METHODS
from ..files import check_folder
from ..log import get_logger
from ..workflows.arguments import check_model, check_type
from ..workflows.data_batches import check_calls, naming_other_shapes, read_batches
from ..workflows.quantized import require_calibration, the_quantized_graph
from ..workflows.refine.refine_model import Methods, Refinement, refine_graph
from ..workflows.torch_contexts import in_full_precision

_log = get_logger(__name__)


@in_full_precision
def refine(
    model: nn.Module,
    data: Iterable[Any],
    methods: Methods = DEFAULT_METHODS,
    *,
    seed: int = 0,
    progress: bool = True,
    resume_dir: str | Path | None = None,
) -> Refinement:
    """Changes weights and biases so that the output error of the layers gets smaller; after calibration. In place.

    The layers are visited in the order of execution, with their inputs from the quantized network. The result is in the
    weights, codebooks and biases of ``model``, so in its state_dict, record and files; the float state of ``model`` is
    the refined network. The user's own float model is not changed. On the dynamic path the files of ``quantize_model``
    are written again, and the forward runs once per layer and batch, up to that layer; a model of
    ``create_quant_retrain_model`` is refined before its training.

    Methods:
      ``compensated_rounding``: weights that are not yet rounded are changed to cancel the rounding error of each weight
        (GPTQ, Frantar et al. 2022), on uniform grids of 8 and 4 bits and on codebooks, whose entries are fitted anew.
        Kept for a layer only if the layer's output comes nearer to the float output on held-out images.
      ``learned_rounding``: from the present rounded weights on, each weight chooses between its level and the next one,
        by gradient descent on the layer's output (AdaRound, Nagel et al. 2020). Takes several times as long, and is no
        default. Each row is kept only if its output comes nearer on held-out images.
      ``bias_correction``: the mean of every output channel becomes that of the float network (Nagel et al. 2019), as
        far as the pictures agree on the difference (James and Stein 1961).

    On the FX path, with any method: if a ReLU alone reads a sum, the range of an addend is cut where the sum gives 0,
    as calibration does; earlier versions did not.

    At the end the noise at the outputs of the network is compared with that before, on the pictures held out. If it has
    risen by more than two standard errors, the changes of the last layers or all changes are taken back; INFO says so.

    Args:
      model: What create_quant_model_fx, quantize_model or create_quant_retrain_model returned, calibrated; on any
        device.
      data: Batches as in calibration: tensors, or tuples of the arguments of forward; a single tensor is one batch. 32
        pictures do; a quarter of them judges. Of the values between layers 1 GiB stays in memory, the rest goes to a
        temporary folder.
      methods: A name, or names of methods; or a dict from each name to the layers or layer types it is for, None for
        all. Only they count here, not the configuration's ``refine`` section (spec 8.7).
      seed: Draws the positions of the feature maps that are looked at.
      progress: Whether a progress bar is shown.
      resume_dir: Folder in which every finished layer is saved; a later call continues from there.

    Returns:
      The methods applied to each layer, the reasons why others were not, and the layers taken back.

    Raises:
      CalibrationError: The model is not calibrated; there is no data; a batch has labels or other arguments than
        forward takes, other sizes than it computes with, or NaN.
      TypeError: ``data`` is no iterable of batches with tensors, or ``methods`` none of the forms above.
      ConfigError: A method is unknown, or ``resume_dir`` belongs to another call.
      UnsupportedModelError: The model was not made by one of these functions.
    """
    check_type("refine", "seed", seed, int, "an int")
    is_dynamic = bool(switches_inside(check_model("refine", model)))
    graph = None if is_dynamic else the_quantized_graph("refine", model)
    if graph is not None:
        require_calibration(graph)
    check_type(
        "refine", "methods", methods, (str, Sequence, Mapping), "a name, a list of names or a dict {name: layers}"
    )
    batches = read_batches("refine", "data", data)
    folder = None if resume_dir is None else check_folder("refine", "resume_dir", resume_dir)
    if graph is None:
        from ..workflows.refine.refine_dynamic import refine_modules  # here, because importing onnx takes a second

        result = refine_modules(model, batches, methods, seed=seed, progress=progress, resume_dir=folder)
    else:
        check_calls("refine", "data", batches, graph)
        inputs = [positional_inputs(graph, batch) for batch in batches]
        names = functools.partial(names_of_inputs, graph)
        with naming_other_shapes("refine", inputs, names, graph.seen_inputs):
            result = refine_graph(graph, inputs, methods, seed=seed, progress=progress, resume_dir=folder)
        graph.kept_batches.clear()
    _log.info("%s", result.summary())
    return result
