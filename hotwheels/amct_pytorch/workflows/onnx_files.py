"""Writes the files of a save from a quantized graph and its record (FX path); importing it loads onnx."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..backends.fx.quant_graph_module import QuantGraphModule
from ..backends.fx.write.example_call import ExampleCall, make_example_call, positional_inputs
from ..backends.fx.write.export import WrittenModel, write_float_model
from ..backends.fx.write.flat_graph import flat_float_graph
from ..export.save import write_files
from ..files import PathLike
from ..files.seal import sealed_set
from ..ops.registry import Registry
from ..oracle.digest import make_golden
from ..oracle.dynamic_sizes import fix_wrong_axes
from ..oracle.float_check import check_outputs, outputs_of
from ..record import Record
from ..torch_private import pytree
from .check.twin_check import check_against_twin
from .golden import real_quant_integers


def write_in_memory(
    model: QuantGraphModule, example: ExampleCall, registry: Registry, setting: dict[str, Any] | None = None
) -> WrittenModel:
    """Returns the float ONNX model of ``model`` for ``example``.

    Raises:
      ExportError: It cannot be written.
    """
    return write_float_model(flat_float_graph(model, registry, example.constants), example, setting or {})


def check_written(
    model: QuantGraphModule, inputs: tuple[Any, ...], written: WrittenModel, golden_inputs: tuple[Any, ...] | None
) -> None:
    """Runs the float ONNX model on its example and compares it with the user's float forward on ``inputs``.

    Only if they differ, or there is no such forward, the graph of ``model`` runs too, and is compared with both.

    Raises:
      ExportError: The ONNX model or the graph differs by more than rounding.
      UnsupportedModelError: A second call of the float forward gives another result.
    """
    tensors = written.reference.tensors()
    found = outputs_of(written.model, tensors)
    is_users = check_against_twin(model, inputs, found)
    if golden_inputs is not None and not _are_same(inputs, golden_inputs):
        check_against_twin(model, golden_inputs)
    if found is not None and not is_users:
        check_outputs(written.model, tensors, written.reference, found)
    if found is not None and written.has_exported_calls:
        fix_wrong_axes(written.model, written.reference)


def _are_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether both hold the same objects, as where one tensor is given twice."""
    leaves, others = pytree.tree_leaves(one), pytree.tree_leaves(other)
    return len(leaves) == len(others) and all(map(operator.is_, leaves, others))


def write_onnx_files(
    model: QuantGraphModule,
    record: Record,
    prefix: PathLike,
    *,
    inputs: tuple[Any, ...],
    written: WrittenModel,
    golden_inputs: tuple[Any, ...] | None,
) -> tuple[Path, ...]:
    """Writes all files of a save of the FX path, checks the float model meanwhile, and returns the files' paths.

    Args:
      model: Quantized graph; not changed.
      record: Parameters of the layers.
      prefix: Folder and name prefix of the files.
      inputs: Arguments of the forward that ``written`` was written for.
      written: The float model, from `write_in_memory`.
      golden_inputs: Arguments of the forward of the golden file; None writes no golden file.

    Raises:
      ExportError, UnsupportedModelError: See `check_written`; no file is left.
    """
    check: Callable[[], None] | None = partial(check_written, model, inputs, written, golden_inputs)
    if check and written.has_exported_calls:
        check()  # first, since it may change the model
        check = None
    with sealed_set(prefix) as files:
        write_files(files, written.model, record, prefix, with_float_model=True, with_record=True, meanwhile=check)
        if golden_inputs is not None:
            leaves = pytree.tree_leaves(make_example_call(model, golden_inputs).inputs)
            arrays = [x.numpy() for x in leaves if isinstance(x, Tensor)]
            make_golden(prefix, arrays, files, real_quant_integers(model, positional_inputs(model, golden_inputs)))
    return files.paths
