"""The common part of all observers: which tensors are observed (spec 4.7), and the two base classes."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ...core.affine import affine_params, real_ends
from ...core.params import QuantParams
from ...core.spec import QuantSpec
from ...errors import CalibrationError
from ..foreign.torch_base import ObserverBase


def is_quantizable(x: object) -> bool:
    """Whether ``x`` is a floating tensor; everything else is neither observed nor quantized."""
    return isinstance(x, Tensor) and x.is_floating_point()


def as_float(x: Tensor) -> Tensor:
    """Returns ``x``; float16 and bfloat16 are converted to float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def float_samples(x: object) -> Tensor | None:
    """Returns ``x`` as a detached float32 tensor, or None if it is no floating tensor or has no elements."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not x.numel():
        return None
    return x.detach().to(torch.float32)


def finite_samples(x: object, layer: str) -> Tensor | None:
    """Returns ``float_samples(x)``, after checking that the values are finite.

    Raises:
      CalibrationError: ``x`` holds NaN or inf.
    """
    samples = float_samples(x)
    if samples is not None and not all(math.isfinite(end) for end in torch.aminmax(samples)):  # NaN propagates
        raise not_finite(samples, layer)
    return samples


def not_finite(samples: Tensor, layer: str) -> CalibrationError:
    """Returns the error which says that ``samples`` hold NaN or inf."""
    low, high = torch.aminmax(samples)
    return CalibrationError(
        f"Layer '{layer}': the observed tensor of shape {tuple(samples.shape)} holds NaN or inf (minimum {float(low)},"
        f" maximum {float(high)}); calibrate with data on which the float model gives finite values."
    )


class RangeObserver(ObserverBase):
    """Base of the observers that find one range per tensor: IFMR and LUQ-MSE.

    Attributes:
      keeps_updating: Whether batches after the first result still change it.
      refuses_non_finite: Whether ``update`` itself raises CalibrationError for NaN and inf, so that a pass is saved.
      merges_processes: Whether ``update`` exchanges what the processes of a torch.distributed run have seen; it takes
        empty batches, too, then.
      min_val, max_val: float32 buffers of shape [], the range found.
      scale, zero_point: float32 and int32 buffers of shape [], the grid of that range.
      extremes: Smallest and largest value seen in this process, once the range is known; None if not recorded.
    """

    keeps_updating = False
    refuses_non_finite = False
    merges_processes = False
    extremes: tuple[float, float] | None = None
    min_val: Tensor
    max_val: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, *, num_bits: int, object_layer: str) -> None:
        super().__init__(dtype=torch.qint8 if num_bits <= 8 else torch.qint32)
        self.num_bits = num_bits
        self.object_layer = object_layer
        self.register_buffer("min_val", torch.zeros(()))
        self.register_buffer("max_val", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    @classmethod
    @abstractmethod
    def symmetry_args(cls, qscheme: str | None, with_offset: bool | None) -> dict[str, Any]:
        """Returns LUQ's two arguments for symmetry as constructor arguments of this class; None means not given."""

    @property
    @abstractmethod
    def is_symmetric(self) -> bool:
        """Whether the grid has offset 0."""

    @abstractmethod
    def make_symmetric(self) -> None:
        """From now on the grid has offset 0; a range already found is converted."""

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Whether this object has found a range."""

    @property
    @abstractmethod
    def progress(self) -> str:
        """How far the observer is, such as ``1 of 4 batches seen``."""

    @abstractmethod
    def forget(self) -> None:
        """Forgets which batches were seen; the buffers stay as they are."""

    @abstractmethod
    def update(self, samples: Tensor) -> None:
        """Takes one batch: float32 of any shape, not empty; finite unless ``refuses_non_finite``."""

    def clip_range(self) -> tuple[Tensor, Tensor]:
        """Returns (clip_min, clip_max), the real values of Qmin and Qmax, which seed the learned ranges."""
        return real_ends(self.scale, self.zero_point, self.num_bits)

    def forward(self, x: Any) -> Any:
        """Observes ``x`` and returns it unchanged."""
        samples = finite_samples(x, self.object_layer)
        if samples is not None:
            self.update(samples)
        return x

    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Returns (scale, zero_point), of shape [1] as torch's observers do.

        Raises:
          CalibrationError: Not enough batches were observed.
        """
        if not self.is_complete:
            msg = f"Layer '{self.object_layer}': {type(self).__name__} has not seen enough batches yet."
            raise CalibrationError(msg)
        return self.scale.reshape(1), self.zero_point.reshape(1)

    def _set_range(self, low: Tensor, high: Tensor) -> None:
        """Stores the range and its grid by the formulas of spec 4.1."""
        scale, offset = affine_params(low, high, QuantSpec(num_bits=self.num_bits, symmetric=self.is_symmetric))
        self._store(low, high, scale, offset)

    def _store(self, low: Any, high: Any, scale: Any, offset: Any) -> None:
        """Stores four numbers, or tensors of one element."""
        with torch.no_grad():
            for buffer, value in zip(self._grid_buffers(), (low, high, scale, offset), strict=True):
                if isinstance(value, (float, int)):
                    buffer.fill_(value)
                else:
                    buffer.copy_(torch.as_tensor(value).reshape(()))

    def _grid_buffers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.min_val, self.max_val, self.scale, self.zero_point


class WeightObserver(ObserverBase):
    """Base of the observers of a weight [C_out, ...]: ARQ and SNQ. The last weight seen counts.

    Attributes:
      last: The grid of the last weight that was observed, None before the first one.
    """

    def __init__(self, *, num_bits: int, object_layer: str) -> None:
        super().__init__(dtype=torch.qint8)
        self.num_bits = num_bits
        self.object_layer = object_layer
        self.last: QuantParams | None = None

    @abstractmethod
    def weight_params(self, weight: Tensor, bias: Tensor | None = None) -> QuantParams:
        """Returns the grid of ``weight``; a large ``bias`` may raise the smallest scale (spec 4.3). Pure."""

    def forward(self, weight: Any) -> Any:
        """Measures ``weight`` and returns it unchanged."""
        samples = finite_samples(weight, self.object_layer)
        if samples is not None:
            self.last = self.weight_params(samples)
        return weight

    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Returns (scale, zero_point) of the last weight, of shape [C_out] or [1].

        Raises:
          CalibrationError: No weight was observed.
        """
        if self.last is None:
            raise CalibrationError(f"Layer '{self.object_layer}': {type(self).__name__} has not seen a weight yet.")
        return self.last.scale.reshape(-1), self.last.offset.reshape(-1)
