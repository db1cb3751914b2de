"""The operators ``torch.ops.pico_ops.*`` and how ``torch.onnx.export(..., dynamo=False)`` writes them (spec 12).

Every operator is registered as composite: PyTorch derives its gradient, its fake (meta) kernel and its CUDA form from
the operations inside, while ``torch.jit.trace`` and ``torch.fx`` still see one node.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, ExportError
from ..torch_torchscript import has_symbolics, register_symbolic

# The name a layer accepts -> torch's name of the formula it computes.
GELU_FORMULAS = {"tanh": "tanh", "none": "none", "better_approximation": "none"}

# Symbolics registered for opset 9 serve every later opset; none of the nodes they write changed its form since.
_SINCE_OPSET = 9


def check_gelu_formula(approximate: str) -> str:
    """Returns torch's name of the formula called ``approximate``; raises ConfigError for an unknown one."""
    if approximate not in GELU_FORMULAS:
        known = ", ".join(repr(name) for name in GELU_FORMULAS)
        raise ConfigError(f"approximate of GELU must be one of {known}, got {approximate!r}.")
    return GELU_FORMULAS[approximate]


# --- kernels ---
#
# The defaults repeat those of the schemas below: torch leaves out trailing arguments that equal them.


def _layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, axis: int = -3, eps: float = 1e-5
) -> Tensor:
    """Normalises ``x`` along ``axis`` only; keeps a contiguous input contiguous, since callers ``view`` the result."""
    normalized = F.layer_norm(x.movedim(axis, -1), (x.shape[axis],), weight, bias, eps).movedim(-1, axis)
    return normalized.contiguous() if x.is_contiguous() else normalized


def _gelu(x: Tensor, approximate: str = "tanh") -> Tensor:
    return F.gelu(x, approximate=check_gelu_formula(approximate))


def _space_to_depth(x: Tensor, block_size: int) -> Tensor:
    _check_image(x, "SpaceToDepth")
    batch, channels, height, width = x.shape
    if height % block_size or width % block_size:
        msg = f"SpaceToDepth: height {height} and width {width} must be multiples of block_size {block_size}."
        raise ValueError(msg)
    rows, columns = height // block_size, width // block_size
    blocks = x.reshape(batch, channels, rows, block_size, columns, block_size).permute(0, 3, 5, 1, 2, 4)
    # A clone, because where H or W is 1 the permutation is a view and an operator must not return its input's memory.
    return blocks.clone(memory_format=torch.contiguous_format).view(batch, -1, rows, columns)


def _depth_to_space(x: Tensor, block_size: int) -> Tensor:
    _check_image(x, "DepthToSpaceDCR")
    batch, channels, rows, columns = x.shape
    if channels % block_size**2:
        msg = f"DepthToSpaceDCR: {channels} channels must be a multiple of block_size {block_size} squared."
        raise ValueError(msg)
    depth = channels // block_size**2
    pixels = x.reshape(batch, block_size, block_size, depth, rows, columns).permute(0, 3, 4, 1, 5, 2)
    pixels = pixels.clone(memory_format=torch.contiguous_format)
    return pixels.view(batch, depth, rows * block_size, columns * block_size)


def _global_warp(x: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(x, grid, mode="nearest", padding_mode="border", align_corners=True)


def _warp(x: Tensor, grid: Tensor, roi: Sequence[int] | None = None) -> Tensor:
    if roi is None:
        return _global_warp(x, grid)
    left, top, right, bottom = roi
    height, width = x.shape[-2:]
    if right > width or bottom > height:
        # Slicing would clamp the region silently, and the grid would then address other pixels.
        msg = f"Warp: roi (x0, y0, x1, y1) = {tuple(roi)} reaches beyond the input's width {width} or height {height}."
        raise ValueError(msg)
    return _global_warp(x[:, :, top:bottom, left:right], grid)


def _check_image(x: Tensor, name: str) -> None:
    if x.dim() != 4:
        raise ValueError(f"{name}: the input must be 4-dimensional (N, C, H, W), got shape {tuple(x.shape)}.")


# --- registration with torch ---

_KERNELS: dict[str, Callable[..., Tensor]] = {
    "LayerNorm(Tensor x, Tensor? weight=None, Tensor? bias=None, int axis=-3, float eps=1e-05) -> Tensor": _layer_norm,
    'Gelu(Tensor x, str approximate="tanh") -> Tensor': _gelu,
    "SpaceToDepth(Tensor x, int block_size) -> Tensor": _space_to_depth,
    "DepthToSpaceDCR(Tensor x, int block_size) -> Tensor": _depth_to_space,
    "GlobalWarp(Tensor x, Tensor grid) -> Tensor": _global_warp,
    "Warp(Tensor x, Tensor grid, int[]? roi=None) -> Tensor": _warp,
}


def _register_kernels() -> torch.library.Library:
    library: Any = torch.library.Library("pico_ops", "DEF")  # type: ignore[no-untyped-call]
    for schema, kernel in _KERNELS.items():
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(schema.partition("(")[0], _known_to_exporter(kernel), "CompositeImplicitAutograd")
    return cast("torch.library.Library", library)


def _known_to_exporter(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Wraps a kernel: its first call registers the ONNX symbolics, since an exporter may be recording the call."""

    @functools.wraps(kernel)
    def run(*args: Any, **kwargs: Any) -> Tensor:
        register_onnx_symbolics()
        return kernel(*args, **kwargs)

    return run


_LIBRARY = _register_kernels()  # kept: the operators live as long as this object
OPS = torch.ops.pico_ops


# --- ONNX symbolics: how the TorchScript exporter writes each operator ---
#
# Tensors are torch._C.Value, which torch leaves untyped. Every output gets a type, because shape inference does not
# know custom_domain, and later nodes (flatten, reshape, another LayerNorm) need shapes.


def _layer_norm_symbolic(g: Any, x: Any, weight: Any, bias: Any, axis: int, eps: float) -> Any:
    # The converter takes three inputs, so an absent weight is written as ones and an absent bias as zeros.
    weight = _constant_along(g, x, axis, 1.0) if weight.node().mustBeNone() else weight
    bias = _constant_along(g, x, axis, 0.0) if bias.node().mustBeNone() else bias
    return g.op("custom_domain::LayerNorm", x, weight, bias, dim_i=axis, epsilon_f=eps).setType(x.type())


def _gelu_symbolic(g: Any, x: Any, approximate: str) -> Any:
    return g.op("custom_domain::Gelu", x, approximate_s=approximate).setType(x.type())


def _space_to_depth_symbolic(g: Any, x: Any, block: int) -> Any:
    batch, channels, height, width = _image_sizes(x)
    shape = [batch, channels and channels * block**2, height and height // block, width and width // block]
    return g.op("SpaceToDepth", x, blocksize_i=block).setType(x.type().with_sizes(shape))


def _depth_to_space_symbolic(g: Any, x: Any, block: int) -> Any:
    batch, channels, height, width = _image_sizes(x)
    shape = [batch, channels and channels // block**2, height and height * block, width and width * block]
    return g.op("DepthToSpace", x, blocksize_i=block, mode_s="DCR").setType(x.type().with_sizes(shape))


def _global_warp_symbolic(g: Any, x: Any, grid: Any) -> Any:
    return g.op("custom_domain::GlobalWarp", x, grid).setType(_warped_type(x, grid))


def _warp_symbolic(g: Any, x: Any, grid: Any, roi: list[int] | None) -> Any:
    # Without roi the attribute is left out, which means the whole image, also with dynamic axes.
    attributes = {} if roi is None else {"roi_i": roi}
    return g.op("custom_domain::Warp", x, grid, **attributes).setType(_warped_type(x, grid))


def _warped_type(x: Any, grid: Any) -> Any:
    batch, channels, _, _ = _image_sizes(x)
    _, height, width, _ = _image_sizes(grid)
    return x.type().with_sizes([batch, channels, height, width])


def _constant_along(g: Any, x: Any, axis: int, fill: float) -> Any:
    """Writes the constant of shape (C,) filled with ``fill``, C being the size of ``axis``."""
    sizes = x.type().varyingSizes()
    size = None if sizes is None else sizes[axis]
    if size is None:
        msg = (
            f"pico_ops.LayerNorm without weight or bias cannot be exported, because the size of axis {axis} is unknown "
            f"or dynamic. Use elementwise_affine=True and bias=True, or make this axis static."
        )
        raise ExportError(msg)
    return g.op("Constant", value_t=torch.full((size,), fill, dtype=x.type().dtype()))


def _image_sizes(value: Any) -> list[int | None]:
    """Returns the four sizes of ``value``, None for each that is unknown."""
    return value.type().varyingSizes() or [None] * 4


# By operator: the kinds of its arguments, as `register_symbolic` takes them, and the function.
_SYMBOLICS: dict[str, tuple[str, Callable[..., Any]]] = {
    "pico_ops::LayerNorm": ("v v v i f", _layer_norm_symbolic),
    "pico_ops::Gelu": ("v s", _gelu_symbolic),
    "pico_ops::SpaceToDepth": ("v i", _space_to_depth_symbolic),
    "pico_ops::DepthToSpaceDCR": ("v i", _depth_to_space_symbolic),
    "pico_ops::GlobalWarp": ("v v", _global_warp_symbolic),
    "pico_ops::Warp": ("v v is", _warp_symbolic),
}


@functools.cache
def register_onnx_symbolics() -> None:
    """Registers the operators with ``torch.onnx.export(..., dynamo=False)``; a torch without it is left alone."""
    if not has_symbolics():
        return
    for name, (kinds, symbolic) in _SYMBOLICS.items():
        register_symbolic(name, kinds, symbolic, _SINCE_OPSET)
