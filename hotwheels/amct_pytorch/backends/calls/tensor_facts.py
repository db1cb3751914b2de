"""Functions whose result does not depend on the values of a tensor: shape, type, device and the like."""

from __future__ import annotations

from typing import Any

_PROPERTY = "__get__"
_NAMES = frozenset(
    {
        "shape",
        "size",
        "dim",
        "ndim",
        "ndimension",
        "dtype",
        "device",
        "numel",
        "nelement",
        "layout",
        "is_cuda",
        "is_cpu",
    }
    | {"is_floating_point", "is_complex", "is_contiguous", "stride", "storage_offset", "requires_grad", "is_leaf"}
    | {"element_size", "itemsize", "nbytes", "get_device", "__len__", "is_sparse", "is_quantized", "is_meta", "type"}
    | {"is_inference", "grad", "grad_fn", "names", "_version", "is_signed", "is_tensor", "is_nested", "can_cast"}
    | {
        "__hash__",
        "__repr__",
        "__str__",
        "__format__",
        "data_ptr",
        "untyped_storage",
        "_is_view",
        "__dir__",
        "isinstance",
    }
)


def is_fact(func: Any) -> bool:
    """Whether ``func``, as a `TorchFunctionMode` gets it, is such a function, or a property."""
    name = getattr(func, "__name__", "")
    name = getattr(getattr(func, "__self__", None), "__name__", "") if name == _PROPERTY else name
    return name in _NAMES
