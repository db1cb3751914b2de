"""ModuleWriter: runs a user's module and writes every call of torch on its inputs as ONNX nodes."""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ....errors import ExportError
from ....onnx_io.node_names import name_nodes, name_values
from ....ops.desc import OpDesc
from ....torch_private import DispatchMode, pytree, without_torch_function
from ...calls.fused_attention import without_fused_attention
from ...torchscript.baked_values import is_user_file, user_line
from ...torchscript.marker_sites import INPUT_MARKER, MARKER_DOMAIN, OUTPUT_MARKER
from ...torchscript.torch_exporter import export_lock, no_checkpoints
from ...writer.example import Example, FixedAxis
from ...writer.graph_writer import GraphWriter
from ...writer.translator import Translator


class SizeOfData(ExportError):
    """The size of a tensor depends on data; torch's exporter may write it."""


class ModuleWriter:
    """Writes one run of ``model`` on ``example``.

    Nodes have the names that torch's TorchScript exporter gives: ``/layer1/conv/Conv``.

    Its methods `mark_input` and `mark_result` are the marks of a `MarkedForward`: they write the exporter's markers.

    Attributes:
      lines: The user's lines that make numbers of data, each once; see `report_baked`.
      fixed: The dynamic axes for which the written model is right with one size only, with the place that fixed each.
    """

    def __init__(self, model: nn.Module, example: Example, opset: int, *, takes_sizes_of_data: bool = False) -> None:
        """Runs nothing yet. A tensor whose size depends on data is an ExportError, or is noted in `lines`."""
        self._takes_sizes_of_data = takes_sizes_of_data
        self.lines: dict[str, None] = {}
        self.fixed: dict[FixedAxis, str] = {}
        self._example = example
        self._model = model
        self._names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
        self._writer = GraphWriter(opset)
        self._translator = Translator(self._writer, example, self._name_of, self._note_data_read)

    def write(self) -> ir.Model:
        """Runs the model in its present training flag and returns what it computes; unread inputs are left out.

        Raises:
          ExportError: The run fails, or a call has no ONNX form or is not seen.
          SizeOfData: See `__init__`.
          OpsetTooLow: A call has an ONNX form at a higher opset.
        """
        try:
            with export_lock, torch.no_grad(), without_fused_attention(), no_checkpoints(), _without_symbolics():
                with _MissedCalls(self._translator, self._note_size_of_data), self._scopes(), self._translator:
                    results = self._model(*self._translator.inputs)
                self._note_fixed()
                values = [self._value(tensor) for tensor in results]
        except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
            where = next((one for one in reversed(_frames(error)) if is_user_file(one.filename)), None)
            line = "" if where is None else f" ({where.filename}:{where.lineno}: {where.line})"
            kind = SizeOfData if isinstance(error, SizeOfData) else ExportError
            raise kind(f"The model cannot be exported to ONNX with this input_data{line}: {error}") from error
        model = self._writer.model(values, [f"output_{index}" for index in range(len(values))])
        for value in list(model.graph.inputs):
            if not value.uses() and not value.is_graph_output():
                model.graph.inputs.remove(value)
        for value in model.graph.initializers.values():  # later training must not change the file
            assert value.const_value is not None
            value.const_value = ir.Tensor(value.const_value.numpy().copy(), dtype=value.dtype, name=value.name)
        name_nodes(model, {}, {})
        name_values(model)
        return model

    # --- marks ---

    def mark_input(self, x: Tensor, layer: str, index: int) -> Tensor:
        """Returns an alias of ``x``, quantizable input ``index`` of ``layer``."""
        return self._marked(x, INPUT_MARKER, layer=layer, index=index)

    def mark_result(self, result: Any, layer: str) -> Any:
        """Returns ``result`` with an alias of its first tensor, the output of ``layer``."""
        if isinstance(result, Tensor):
            return self._marked(result, OUTPUT_MARKER, layer=layer)
        if type(result) in (list, tuple) and result:
            return type(result)([self.mark_result(result[0], layer), *result[1:]])
        return result

    def body(self, op: OpDesc) -> contextlib.AbstractContextManager[None]:
        """Returns a context for the call of the module itself."""
        return contextlib.nullcontext()

    def _marked(self, x: Tensor, marker: str, **attributes: Any) -> Tensor:
        value = self._writer.op(marker, self._value(x), domain=MARKER_DOMAIN, **attributes)
        with without_torch_function(), self._translator.writing():
            alias = x.detach()
        self._translator.values.bind(alias, value)
        return alias

    # --- names ---

    @contextlib.contextmanager
    def _scopes(self) -> Iterator[None]:
        """Returns a context in which nodes have the paths of the modules that are running.

        A further call of a module in the same scope has a numbered path, ``/relu_1``.
        """
        calls: Counter[str] = Counter()
        outer: list[str] = []

        def enter(name: str) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                outer.append(self._writer.scope)
                scope = f"{self._writer.scope}/{name}" if self._writer.scope else name
                self._writer.scope = f"{scope}_{calls[scope]}" if calls[scope] else scope
                calls[scope] += 1

            return hook

        def leave(*_: Any) -> None:
            self._note_fixed()
            self._writer.scope = outer.pop()

        handles = []
        for path, module in self._model.named_modules():
            if path:
                handles.append(module.register_forward_pre_hook(enter(_local_name(path)), prepend=True))
                handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _value(self, tensor: Tensor) -> ir.Value:
        self._translator.check_unchanged(tensor)
        found = self._translator.values.find(tensor)
        return self._writer.initializer(tensor, self._name_of(tensor)) if found is None else found

    def _name_of(self, tensor: Tensor) -> str:
        return self._names.get(id(tensor), "")

    def _note_fixed(self) -> None:
        for one in self._example.fixed():
            self.fixed.setdefault(one, self._example.line_of(one) or f"'{self._writer.scope or 'the model'}'")

    def _note_data_read(self, _call: str) -> None:
        self.lines.setdefault(user_line())

    def _note_size_of_data(self, func: Any) -> None:
        if not self._takes_sizes_of_data:
            raise SizeOfData(f"{func} makes a tensor whose size depends on data.")
        self.lines.setdefault(user_line())


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return list(traceback.extract_tb(error.__traceback__))


def _local_name(path: str) -> str:
    """Returns the name of a module in torch's exporter: its last name, with the list's if that is a number."""
    parts = path.split(".")
    first = len(parts) - 1
    while first and parts[first].isdigit():
        first -= 1
    return ".".join(parts[first:])


class _MissedCalls(DispatchMode):  # type: ignore[no-untyped-call]
    """While this mode is active, what the translator cannot write rightly is an ExportError.

    - A computation on the inputs that the translator has not seen: compiled functions (torch.jit) and operators of
      other libraries compute without calling torch's Python functions.
    - A tensor whose size depends on data, such as ``x[mask]``: all sizes are numbers while the model runs, so the count
      of the example would be a constant of every node that reads the size. ``on_size_of_data`` gets the call.
    """

    def __init__(self, translator: Translator, on_size_of_data: Callable[[Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._translator = translator
        self._on_size_of_data = on_size_of_data

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs ``func``."""
        if not self._translator.is_writing:
            known = self._translator.values
            if any(isinstance(leaf, Tensor) and leaf in known for leaf in pytree.tree_leaves((args, kwargs))):
                raise ExportError(f"{func} is computed behind torch's Python functions.")
        elif self._translator.is_computing and _has_size_of_data(func, args):
            self._on_size_of_data(func)
        return func(*args, **(kwargs or {}))


def _has_size_of_data(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether the size of the result of ``func`` depends on values of its arguments."""
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    if func is not torch.ops.aten.index.Tensor:
        return True
    return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])


@contextlib.contextmanager
def _without_symbolics() -> Iterator[None]:
    """Returns a context in which a function of a user that has a form for torch's exporter is an ExportError."""

    def refuse(*_: Any) -> None:
        raise ExportError("A function of the user has a form for torch's TorchScript exporter.")

    with contextlib.ExitStack() as stack:
        for one in _with_symbolic(torch.autograd.Function):
            stack.callback(setattr, one, "forward", one.__dict__.get("forward", one.forward))
            one.forward = staticmethod(refuse)
        yield


def _with_symbolic(base: Any) -> Iterator[Any]:
    """Yields the classes derived from ``base`` that have a form for torch's TorchScript exporter."""
    for one in base.__subclasses__():
        if hasattr(one, "symbolic"):
            yield one
        yield from _with_symbolic(one)
