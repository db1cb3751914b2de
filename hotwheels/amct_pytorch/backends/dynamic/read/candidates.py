"""Finds the modules of a model that are single operations, which the dynamic path may quantize (spec 9.1, 9.6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from torch import nn

from ....custom_op import CustomModuleBase
from ....ops.desc import OpDesc, Role
from ....ops.registry import Registry
from .affine_modules import AffineModule

_CONVOLUTIONS = frozenset({Role.CONV, Role.CONV_TRANSPOSE})
_METHODS = ("forward", "_conv_forward")  # a subclass that changes one of these is another operation than its base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One module that is one operation.

    Attributes:
      path: Path of the module, which is the layer name.
      module: The module.
      type: Type string, ``torch.nn.Conv2d``.
      op: The operation's description in the registry.
      onnx_types: Types of the ONNX node to which the module may be exported.
      is_listed: Whether the capacity file lists the module as quantizable; a SyncBatchNorm can only be folded.
      padded: The module with the zeros in front that are part of the layer; None without any.
      affine: For a module that is no layer but may be folded, as it computes an affine function for each channel; else
        None.
    """

    path: str
    module: nn.Module
    type: str
    op: OpDesc
    onnx_types: frozenset[str]
    is_listed: bool
    affine: AffineModule | None = None
    padded: nn.Module | None = None

    @property
    def computing(self) -> nn.Module:
        """The module that computes what the layer's nodes in the file compute."""
        return self.module if self.padded is None else self.padded


def find_candidates(
    model: nn.Module,
    registry: Registry,
    inner: Mapping[str, nn.Module] | None = None,
    affines: Mapping[str, AffineModule] | None = None,
) -> dict[str, Candidate]:
    """Returns the candidates of ``model`` by path; not the model itself, and none inside another candidate.

    ``inner`` are the modules that replace the operation in the forward of another module, by the path of that module,
    ``affines`` modules that are no layers but may be folded. A convolution that is not listed is a candidate too, since
    BatchNorms and activations behind it belong to it.
    """
    found: dict[str, Candidate] = {}
    for path, module in outermost(model, registry):
        if path in (affines or {}):
            continue
        one = (inner or {}).get(path, module)
        match = registry.match_module(type(module)) or registry.match_module(type(one))
        if match is None or (one is module and not is_plain_class(type(module), registry)):
            continue
        if match.op.is_listed or match.op.role in _CONVOLUTIONS or registry.is_fusable(type(one)):
            own = {module.onnx_type} if isinstance(module, CustomModuleBase) else set()
            found[path] = Candidate(
                path=path, module=one, type=match.type, op=match.op, is_listed=match.op.is_listed,
                onnx_types=frozenset(match.op.onnx_types) | own,
            )  # fmt: skip
    return found | {path: _affine_candidate(path, affine) for path, affine in (affines or {}).items()}


def _affine_candidate(path: str, affine: AffineModule) -> Candidate:
    name = type(affine.module).__name__
    op = OpDesc(name=name, role=Role.ELEMENTWISE, is_listed=False)
    return Candidate(
        path=path, module=affine.module, type=name, op=op, onnx_types=frozenset(), is_listed=False, affine=affine
    )


def outermost(model: nn.Module, registry: Registry) -> Iterator[tuple[str, nn.Module]]:
    """Yields modules with their paths, without those inside extension modules, which are one operation each."""
    closed: list[str] = []
    for path, module in model.named_modules():
        if path and not path.startswith(tuple(closed)):
            yield path, module
            if isinstance(module, CustomModuleBase) or registry.is_leaf_type(type(module)):
                closed.append(f"{path}.")


def is_plain_class(cls: type, registry: Registry) -> bool:
    """Whether ``cls`` computes the same as the known class it derives from; True for an extension."""
    if registry.is_leaf_type(cls):
        return True
    homes = (_home(cls, method) for method in _METHODS)
    packages = tuple(f"{package}." for package in registry.leaf_packages)
    return all(home is None or f"{home}.".startswith(packages) for home in homes)


def _home(cls: type, method: str) -> str | None:
    """Returns the Python module of the class that defines ``method``; None if there is none."""
    return next((base.__module__ for base in cls.__mro__ if method in vars(base)), None)
