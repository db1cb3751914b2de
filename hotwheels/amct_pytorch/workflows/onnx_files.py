"""From the exported float ONNX and the record to the files of a save; the half of the FX path that needs onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils import _pytree as pytree

from ..backends.torchscript.marker_sites import resolve_markers
from ..export.save import write_files
from ..files import PathLike
from ..files.seal import sealed_set
from ..onnx_io.model_file import name_outputs, parse_model
from ..oracle.digest import make_golden
from ..record import Record


def write_onnx_files(
    content: bytes, record: Record, prefix: PathLike, *, has_output_names: bool, golden_inputs: Any
) -> tuple[Path, ...]:
    """Writes everything that a save of the FX path leaves and returns the paths.

    Args:
      content: Float ONNX model with markers around the layers.
      record: Parameters of the layers.
      prefix: Folder and name prefix of the files.
      has_output_names: Whether the user has named the outputs; else they are ``output`` or ``output_<i>`` (spec 2.4).
      golden_inputs: Inputs of the golden file, any nesting of tensors; None for no such file.
    """
    float_model = parse_model(content)
    if not has_output_names:
        name_outputs(float_model)
    resolve_markers(float_model)
    with sealed_set(prefix) as files:
        write_files(files, float_model, record, prefix, with_float_model=True, with_record=True)
        if golden_inputs is not None:
            make_golden(prefix, [x.numpy() for x in pytree.tree_leaves(golden_inputs)], files)
    return files.paths
