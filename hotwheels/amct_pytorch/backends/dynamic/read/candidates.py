"""Which modules of a model are single operations that the dynamic path names, and may quantize (spec 9.1, 9.6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from torch import nn

from ....capacity import Capacity
from ....custom_op import CustomModuleBase
from ....ops.desc import OpDesc, Role
from ....ops.registry import ModuleMatch, Registry

# Other ONNX types which the exporter writes these operations as, depending on their arguments.
_VARIANTS: Mapping[Role, frozenset[str]] = {
    Role.LINEAR: frozenset({"Gemm", "MatMul"}),
    Role.MAX_POOL: frozenset({"MaxPool", "GlobalMaxPool"}),
    Role.AVG_POOL: frozenset({"AveragePool", "GlobalAveragePool"}),
    Role.BATCH_NORM: frozenset({"BatchNormalization"}),
}
_METHODS = ("forward", "_conv_forward")  # what a subclass must not change to be the operation of its base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One module that is one operation.

    Attributes:
      path: Its path, the layer's name.
      module: The module.
      type: Type string, ``torch.nn.Conv2d``.
      op: What the registry knows of it.
      onnx_types: Types of the ONNX node that may do its work.
      is_listed: Whether the capacity file lists it as quantizable; a SyncBatchNorm is only there to be folded.
    """

    path: str
    module: nn.Module
    type: str
    op: OpDesc
    onnx_types: frozenset[str]
    is_listed: bool


def find_candidates(model: nn.Module, registry: Registry, capacity: Capacity) -> dict[str, Candidate]:
    """Returns the candidates of ``model`` by path; not the model itself, and none inside of another one."""
    found: dict[str, Candidate] = {}
    for path, module in _outermost(model, registry):
        match = registry.match_module(type(module))
        if match is not None and _is_that_operation(type(module), registry):
            # The registry knows extension classes by the capacity file alone, also by the name of a base class.
            is_listed = registry.is_leaf_type(type(module)) or _is_listed(match, capacity)
            if is_listed or registry.is_fusable(type(module)):
                found[path] = Candidate(
                    path=path, module=module, type=match.type, op=match.op, is_listed=is_listed,
                    onnx_types=_onnx_types(module, match, capacity),
                )  # fmt: skip
    return found


def _outermost(model: nn.Module, registry: Registry) -> Iterator[tuple[str, nn.Module]]:
    """Yields the modules with their paths, but not those inside extension modules: they are one operation each."""
    closed: list[str] = []
    for path, module in model.named_modules():
        if path and not path.startswith(tuple(closed)):
            yield path, module
            if isinstance(module, CustomModuleBase) or registry.is_leaf_type(type(module)):
                closed.append(f"{path}.")


def _is_that_operation(cls: type, registry: Registry) -> bool:
    """Whether a subclass of a known class left the computation as it is; an extension is what its class says."""
    if registry.is_leaf_type(cls):
        return True
    homes = (_home(cls, method) for method in _METHODS)
    return all(home is None or home.startswith(tuple(registry.leaf_packages)) for home in homes)


def _home(cls: type, method: str) -> str | None:
    """The Python module of the class which defines ``method``."""
    return next((base.__module__ for base in cls.__mro__ if method in vars(base)), None)


def _names(match: ModuleMatch) -> frozenset[str]:
    return frozenset({match.type, match.type.rpartition(".")[2]})


def _is_listed(match: ModuleMatch, capacity: Capacity) -> bool:
    return not _names(match).isdisjoint((*capacity.quantizable_types, *capacity.no_weight_quant_types))


def _onnx_types(module: nn.Module, match: ModuleMatch, capacity: Capacity) -> frozenset[str]:
    names = _names(match)
    weighted = zip(capacity.quantizable_types, capacity.quantizable_onnx_types, strict=False)
    paired = {onnx_type for torch_type, onnx_type in (*capacity.pairs, *weighted) if torch_type in names}
    own = {module.onnx_type} if isinstance(module, CustomModuleBase) else set()
    return frozenset(paired | own | _VARIANTS.get(match.op.role, frozenset()))
