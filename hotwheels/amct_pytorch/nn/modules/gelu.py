"""GELU: the Gaussian error linear unit as one operator of the NPU."""

from __future__ import annotations

from torch import Tensor, nn

from ..pico_ops import OPS, check_gelu_formula


class GELU(nn.Module):
    """Gaussian error linear unit, element-wise; no parameters and no buffers.

    ``"tanh"``: ``0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``, the default because it is what the chip
    approximates (our choice, spec 12.1). ``"none"`` and ``"better_approximation"``: ``0.5 x (1 + erf(x / sqrt(2)))``.
    The deploy ONNX keeps the string as given.

    Raises:
        ConfigError: ``approximate`` is none of the three.
    """

    def __init__(self, approximate: str = "tanh") -> None:
        """Takes the name of the formula."""
        super().__init__()
        check_gelu_formula(approximate)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """Returns the activation of ``x``, of its shape."""
        y: Tensor = OPS.Gelu(x, self.approximate)
        return y

    def extra_repr(self) -> str:
        """Shows the formula."""
        return f"approximate={self.approximate!r}"
