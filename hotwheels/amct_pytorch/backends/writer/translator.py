"""Translator: intercepts every call of torch while a model runs, and writes nodes for calls that read the inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...errors import ExportError
from ...nn.unit_axis import image_form
from ...onnx_io.opset import DEFAULT_OPSET
from ...torch_private import data_errors
from ..calls.composed_forms import composed_form
from ..calls.constant_calls import changes_in_place
from ..calls.function_names import name_of
from ..calls.item_assignment import joined_item, with_item
from ..calls.leaves import leaves, map_leaves, tensors_in
from . import handlers  # noqa: F401 - fills the table
from .call import Call
from .example import Example
from .graph_writer import GraphWriter
from .one_call import OneCallWriter
from .table import REFUSED, Written, write_by_table
from .tensor_values import TensorValues
from .types import onnx_type

# Methods that turn a tensor into Python numbers, which are then constants in the file.
_DATA_READS = frozenset(
    {"item", "tolist", "numpy", "equal", "allclose", "is_nonzero", "__array__"}
    | {f"__{name}__" for name in ("bool", "int", "float", "index", "complex", "contains")}
)
# Functions that copy data, so that torch connects the result with nothing.
_DATA_COPIES = frozenset({"tensor"})
# Functions that read only the shape of a tensor.
_MAKES_BY_SHAPE = frozenset(
    {f"{name}_like" for name in ("zeros", "ones", "full", "empty")}
    | {f"new_{name}" for name in ("zeros", "ones", "full", "empty", "tensor")}
)


class Translator(TorchFunctionMode):
    """While this mode is active, all computations of torch on the inputs of the graph are written.

    Attributes:
      writer: Takes the nodes.
      values: The ONNX values of the tensors.
      inputs: The tensors that stand for the inputs of the graph.
      layer: Name of the quantized layer that is being written; None between layers.
      is_writing: Whether a call is being written; what torch computes then belongs to that call.
      is_computing: Whether the result of a call on the inputs is being computed.
    """

    def __init__(
        self,
        writer: GraphWriter,
        example: Example,
        name_of_constant: Callable[[Tensor], str],
        on_data_read: Callable[[str], None],
    ) -> None:
        """Adds the inputs of ``example``. ``on_data_read`` gets the name of a call that turns data into numbers."""
        super().__init__()
        self.writer = writer
        self.values = TensorValues(example.label)
        self.layer: str | None = None
        self.is_writing = False
        self.is_computing = False
        self._example = example
        self._name_of_constant = name_of_constant
        self._on_data_read = on_data_read
        self._one_calls = OneCallWriter(writer, example)
        inputs = [self._input(name, x) for name, x in zip(example.real, example.tensors(), strict=True)]
        self.inputs = [x for x, _ in inputs]
        self._sizes = example.sizes(writer, [value for _, value in inputs])

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs ``func`` and writes its nodes."""
        with self.writing():
            return self._run(func, args, dict(kwargs or {}))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Returns a context in which ``is_writing``."""
        before, self.is_writing = self.is_writing, True
        try:
            yield
        finally:
            self.is_writing = before

    def _run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._depends_on_inputs((args, kwargs)):
            return func(*args, **kwargs)
        form = image_form(func) or composed_form(func)
        if form is not None:
            with self:
                composed = form(*args, **kwargs)
            if composed is not NotImplemented:
                return composed
        name = getattr(func, "__name__", "")
        is_in_place = changes_in_place(func, kwargs)
        if is_in_place:
            self._bind_constant(args[0])
        if name == "__setitem__" and self._set_item(*args):
            return None
        if name in _DATA_READS | _DATA_COPIES:
            self._example.need_data(name)
        result = self._result(func, args, kwargs)
        if name in _MAKES_BY_SHAPE and all(isinstance(size, int) for size in result.shape):
            return self._constant(func, args, kwargs)
        if name in _DATA_READS | _DATA_COPIES:
            self._on_data_read(name)
        if name in _DATA_COPIES:
            return result
        changed = args[0] if is_in_place else None
        if changed is None and not tensors_in(result):
            return result
        if name == "__setitem__":  # it returns nothing
            call = self._call(with_item, args, kwargs, changed)
            self._bind(call, self._one_calls.write(call, is_known=True), changed)
            return result
        call = self._call(func, args, kwargs, result)
        self._bind(call, self._written(call), changed)
        return result

    def _result(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.is_computing = True
        try:
            return self._example.call(func, args, kwargs)
        except RuntimeError as error:
            if not isinstance(error, data_errors()):
                raise
            msg = (
                f"'{self.writer.scope}' ({name_of(func).strip('_')}) makes a tensor whose size depends on data, or a"
                " number of data; with dynamic_axes each size must follow from the sizes of the inputs. Save without"
                " dynamic_axes, or keep the shape: torch.where(mask, x, 0) instead of x[mask]."
            )
            raise ExportError(msg) from error
        finally:
            self.is_computing = False

    def _set_item(self, x: Tensor, index: Any, value: Any) -> bool:
        """Computes and writes ``x[index] = value``; returns False, and does nothing, if it has no form with joins."""
        if isinstance(value, Tensor) and self.values.changed_by(x) is not None and self._is_place(x, index, value):
            self.values.forget_change(x, value)  # ``x[index] += 1`` changes a view, and then assigns it to its place
        with self:
            joined = joined_item(x, index, value)
        written = None if joined is NotImplemented else self.values.find(joined)
        if written is None:
            return False
        self._example.call(Tensor.__setitem__, (x, index, value), {})
        self.values.change(x, written, self.writer.scope)
        return True

    def _is_place(self, x: Tensor, index: Any, view: Tensor) -> bool:
        """Whether ``view`` is the memory of ``x[index]``."""
        place = self._example.call(Tensor.__getitem__, (x, index), {})
        return bool(
            place.untyped_storage()._cdata == view.untyped_storage()._cdata
            and place.storage_offset() == view.storage_offset()
            and place.shape == view.shape
            and place.stride() == view.stride()
        )

    @property
    def has_exported_calls(self) -> bool:
        """Whether torch's exporter has written a call."""
        return self._one_calls.has_written

    @property
    def baked(self) -> Iterable[str]:
        """The lines of users' functions whose values are constants of the nodes."""
        return self._one_calls.baked

    def write_whole(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls ``function`` as a whole, writes its nodes and returns its result."""
        self._example.need_data("a function of the user")
        with self._example.running():
            result = function(*args, **kwargs)
        call = self._call(function, args, kwargs, result)
        self._bind(call, self._one_calls.write(call, is_known=False), None)
        return result

    def _input(self, name: str, tensor: Tensor) -> tuple[Tensor, ir.Value]:
        shape = [self._example.label(size) for size in tensor.shape]
        value = self.writer.add_input(name, onnx_type(tensor.dtype), shape)
        self.values.bind(tensor, value)
        return tensor, value

    def check_unchanged(self, tensor: Tensor) -> None:
        """Raises ExportError if the value of ``tensor`` is not known, since its memory changed under another name."""
        what = self.values.changed_by(tensor)
        if what is not None:
            msg = (
                f"'{self.writer.scope}' reads a tensor whose memory '{what}' has changed in place under another"
                " name, which an ONNX graph cannot express. Write that change out of place."
            )
            raise ExportError(msg)

    def _call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Call:
        for tensor in tensors_in((args, kwargs)):
            self.check_unchanged(tensor)
        return Call(
            function=function,
            args=args,
            kwargs=kwargs,
            result=result,
            writer=self.writer,
            values=self.values,
            sizes=self._sizes,
            layer=self.layer,
            name_of_constant=self._name_of_constant,
        )

    def _written(self, call: Call) -> Sequence[ir.Value]:
        written: Written = write_by_table(call) if self.writer.opset >= DEFAULT_OPSET else REFUSED
        if written is REFUSED:
            return self._one_calls.write(call, is_known=True)
        return [written] if isinstance(written, ir.Value) else list(written)

    def _bind(self, call: Call, written: Sequence[ir.Value], changed: Tensor | None) -> None:
        results = tensors_in(call.result)
        assert len(results) == len(written), f"{call.function}: {len(written)} values for {len(results)} tensors"
        for tensor, value in zip(results, written, strict=True):
            if tensor.is_complex():
                msg = (
                    f"'{self.writer.scope}' ({name_of(call.function)}) makes complex numbers, for which ONNX has no"
                    " operators. Compute with the real and the imaginary parts as two tensors of floats."
                )
                raise ExportError(msg)
            if tensor is changed:
                self.values.change(tensor, value, self.writer.scope)
            else:
                self.values.bind(tensor, value)

    def _bind_constant(self, tensor: Tensor) -> None:
        """Makes an initializer of the present content of a constant, before a call changes the constant."""
        if tensor not in self.values:
            self._example.need_data("a change of a constant")
            self.values.bind(tensor, self.writer.initializer(tensor.clone(), self._name_of_constant(tensor)))

    def _constant(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns the result of ``func``, which reads no values, as a tensor with data."""

        def with_data(leaf: Any) -> Any:
            return self._example.with_data(leaf) if isinstance(leaf, Tensor) and leaf in self.values else leaf

        return func(*map_leaves(with_data, args), **map_leaves(with_data, kwargs))

    def _depends_on_inputs(self, tree: Any) -> bool:
        return any(
            leaf in self.values if isinstance(leaf, Tensor) else isinstance(leaf, (torch.SymInt, torch.SymFloat))
            for leaf in leaves(tree)
        )
