"""graph_to_dynamic_module: writes a static graph as Python source, for finding errors.

HiSilicon's AMCT manual, chapter "Finding errors in a static-graph model" [静态图模型如何定位bug].
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..backends.fx.write.source_module import load_source, write_source
from ..files import check_folder
from ..log import get_logger
from ..workflows.arguments import check_type
from ..workflows.torch_contexts import in_full_precision

_log = get_logger(__name__)


@in_full_precision
def graph_to_dynamic_module(
    graph_module: torch.fx.GraphModule, save_module_path: str | Path, module_name: str = "FxModule"
) -> nn.Module:
    """Writes a static graph as a Python file and returns the module made from that file.

    An error in a static graph is raised in generated code. Put this call in front of the failing call, use its result
    from there on and run the script again: the traceback then leads to ``module.py``, where a debugger can stop, and
    the comment above the line names the place in your model. Remove the call when the error is found
    (HiSilicon's AMCT manual, chapter "Finding errors in a static-graph model" [静态图模型如何定位bug])::

        quant_model = amct.create_quant_model_fx(config_file, model)
        quant_model = amct.graph_to_dynamic_module(quant_model, "debug")
        amct.enable_quantization(quant_model, calibration=True)
        quant_model(images)

    The result computes the same, bit for bit. The result is a copy, on the devices of ``graph_module``, so build
    optimizers after this call. Made from a quantized model, it is a quantized model for all functions of this package;
    changes in the file (``from debug import FxModule; quant_model = FxModule()``) then have an effect in float,
    calibration and fake_quant, while real_quant, dumps and exported files follow the graph. Made from a float graph, it
    is an ordinary module.

    Args:
      graph_module: Result of ``create_quant_model_fx``, ``restore_quant_model_fx`` or ``torch.fx.symbolic_trace``; not
        changed.
      save_module_path: Folder of the files; created if needed, files of an earlier call are replaced.
      module_name: Name of the class in the file.

    Raises:
      ConfigError: ``module_name`` cannot be the name of the class.
      UnsupportedModelError: The graph calls a function, or holds a module of a class, that is not defined at module
        level.
    """
    function = "graph_to_dynamic_module"
    expected = "a torch.fx.GraphModule, such as create_quant_model_fx and torch.fx.symbolic_trace return"
    check_type(function, "graph_module", graph_module, torch.fx.GraphModule, expected)
    folder = check_folder(function, "save_module_path", save_module_path)
    check_type(function, "module_name", module_name, str, "a string")
    file = write_source(graph_module, folder, module_name)
    _log.info("Wrote the graph as source, for finding errors, to '%s'.", file)
    return load_source(file, module_name)
