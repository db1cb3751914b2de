"""OneCallWriter: writes calls without a handler, by exporting each alone with torch's exporters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from ...errors import ExportError, TorchVersionError
from ..calls.leaves import map_leaves
from ..calls.template_call import Slot, TemplateCall
from ..torchscript.one_call import ExportedCall, export_call, module_path, take_apart
from .call import Call
from .dynamo_call import export_by_dynamo
from .example import Example
from .graph_writer import GraphWriter

_NEWEST_OPSET = 20  # newest opset of the TorchScript exporter; its operators have the same meaning in opsets up to 23


class OneCallWriter:
    """Exports calls one by one and adds their nodes to the graph. Equal calls of torch functions are exported once.

    Attributes:
      has_written: Whether there was a call.
      baked: Lines of users' functions whose values are constants of the nodes; see `report_baked`.
    """

    def __init__(self, writer: GraphWriter, example: Example) -> None:
        self._writer = writer
        self._example = example
        self._exported: dict[str, bytes] = {}
        self.has_written = False
        self.baked: dict[str, None] = {}

    def write(self, call: Call, *, is_known: bool) -> Sequence[ir.Value]:
        """Writes ``call`` and returns a value for each tensor of its result.

        ``is_known``: whether the function is torch's own, whose nodes do not depend on the values of its arguments.

        Raises:
          ExportError: The call has no ONNX form.
          OpsetTooLow: The call has an ONNX form at a higher opset.
        """
        self.has_written = True
        self._example.need_data("a call without handler")  # torch's exporter runs the call
        taken = _Taken(call, self._example)
        template = taken.template()
        try:
            content = self._content(template) if is_known and not template.constants else self._export(template)
        except ExportError as error:
            raise ExportError(f"'{self._writer.scope}': {error}") from error
        return self._stitch(call, take_apart(content, template), taken.inputs)

    def _content(self, call: TemplateCall) -> bytes:
        inputs = [(tuple(x.shape), x.dtype, axes) for x, axes in zip(call.inputs, call.dynamic_axes, strict=True)]
        key = repr((call.function, call.args, call.kwargs, inputs))
        if key not in self._exported:
            self._exported[key] = self._export(call)
        return self._exported[key]

    def _export(self, call: TemplateCall) -> bytes:
        try:
            return export_call(call, min(self._writer.opset, _NEWEST_OPSET), self.baked)
        except (ExportError, TorchVersionError) as error:
            return export_by_dynamo(call, self._writer.opset, error)

    def _stitch(self, call: Call, exported: ExportedCall, inputs: Sequence[ir.Value]) -> Sequence[ir.Value]:
        """Moves the nodes into the graph, where they read ``inputs`` and the graph's initializers."""
        graph = exported.model.graph
        known = {value: inputs[index] for index, value in exported.inputs.items()}
        known |= {value: self._initializer(call, exported, value) for value in graph.initializers.values()}
        for value, own in known.items():
            ir.convenience.replace_all_uses_with(value, own, replace_graph_outputs=True)
        outputs = list(graph.outputs)
        graph.outputs.clear()
        for node in list(graph):
            graph.remove(node)
            self._writer.append(node, module_path(node.name or ""), exported.model.opset_imports.get(node.domain))
        return outputs

    def _initializer(self, call: Call, exported: ExportedCall, value: ir.Value) -> ir.Value:
        tensor, own_name = exported.constants.get(str(value.name), (None, ""))
        if tensor is None:
            assert value.const_value is not None
            return self._writer.constant(value.const_value.numpy(), dtype=value.const_value.dtype)
        name = f"{self._writer.scope}.{own_name}" if own_name else ""
        return self._writer.initializer(tensor, call.name_of_constant(tensor) or name)


class _Taken:
    """Replaces the tensors and sizes in a call by slots."""

    def __init__(self, call: Call, example: Example) -> None:
        self._call = call
        self._example = example
        self.inputs: list[ir.Value] = []
        self._tensors: list[Tensor] = []
        self._dynamic_axes: list[tuple[int, ...]] = []
        self._constants: list[Tensor] = []

    def template(self) -> TemplateCall:
        """Returns the call with slots; afterwards ``inputs`` are the values of the inputs."""
        return TemplateCall(
            function=self._call.function,
            args=map_leaves(self._slot_of, self._call.args),
            kwargs=map_leaves(self._slot_of, self._call.kwargs),
            inputs=self._tensors,
            dynamic_axes=self._dynamic_axes,
            constants=self._constants,
        )

    def _slot_of(self, leaf: Any) -> Any:
        if isinstance(leaf, (torch.SymInt, torch.SymFloat)):
            dtype = torch.int64 if isinstance(leaf, torch.SymInt) else torch.float64
            return self._input(self._call.number(leaf, dtype), torch.tensor(leaf.node.hint, dtype=dtype))
        if not isinstance(leaf, Tensor):
            return leaf
        value = self._call.values.find(leaf)
        if value is None:
            self._constants.append(leaf)
            return Slot(len(self._constants) - 1, is_constant=True)
        dynamic = [axis for axis, size in enumerate(leaf.shape) if not isinstance(self._example.label(size), int)]
        return self._input(value, self._example.with_data(leaf), dynamic)

    def _input(self, value: ir.Value, example: Tensor, dynamic_axes: Sequence[int] = ()) -> Slot:
        self.inputs.append(value)
        self._tensors.append(example)
        self._dynamic_axes.append(tuple(dynamic_axes))
        return Slot(len(self.inputs) - 1)
