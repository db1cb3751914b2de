"""The registry of NumPy kernels by ONNX operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from numpy.typing import NDArray

from ..deploy_pair import Node

Array: TypeAlias = "NDArray[Any]"
# A kernel gets the node and its inputs (None for an absent optional input) and returns its outputs. Reals are float64.
Kernel: TypeAlias = "Callable[[Node, Sequence[Any]], Sequence[Array]]"
SimpleKernel: TypeAlias = "Callable[..., Array]"

CUSTOM_DOMAIN = "custom_domain"
_KERNELS: dict[tuple[str, str], Kernel] = {}
_MOVEMENTS: set[tuple[str, str]] = set()


def register(*op_types: str, domain: str = "", is_movement: bool = False) -> Callable[[Kernel], Kernel]:
    """Makes the decorated function the kernel of ``op_types``.

    ``is_movement``: every output element is an element of input 0 or a padding value, so integers are not changed.
    """

    def decorate(kernel: Kernel) -> Kernel:
        for op_type in op_types:
            _add(op_type, domain, kernel)
            if is_movement:
                _MOVEMENTS.add((domain, op_type))
        return kernel

    return decorate


def register_simple(op_type: str, function: SimpleKernel) -> None:
    """Registers a function of the inputs alone, with one output."""

    def kernel(_node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
        return (function(*inputs),)

    _add(op_type, "", kernel)


def find_kernel(node: Node) -> Kernel | None:
    """Returns the kernel of a node; None if there is none."""
    return _KERNELS.get((node.domain, node.op_type))


def is_movement(node: Node) -> bool:
    """Whether the node only moves the elements of its first input."""
    return (node.domain, node.op_type) in _MOVEMENTS


def _add(op_type: str, domain: str, kernel: Kernel) -> None:
    assert (domain, op_type) not in _KERNELS, f"two kernels for {domain}::{op_type}"
    _KERNELS[domain, op_type] = kernel
