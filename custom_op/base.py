"""CustomModuleBase: the base class of modules for operations that torch offers as functions only."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from hotwheels.amct_pytorch.errors import ConfigError


class CustomModuleBase(nn.Module):
    """Base of the extension modules. A subclass implements ``forward`` and is exported as one ONNX node.

    Both paths treat an instance as one operation and never trace its forward; each tensor argument is an input with its
    own quantization parameters. ``custom_op/max/max.py`` is an example to start from.

    Attributes:
        onnx_type: Type of its ONNX node at opset 13, for instance ``Add``; a subclass may inherit it.
        num_inputs: Number of tensor arguments; None for any number.

    Raises:
        ConfigError: At the definition of a subclass whose ``onnx_type`` is no name or whose ``num_inputs`` is no count.
    """

    onnx_type: ClassVar[str]
    num_inputs: ClassVar[int | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Checks the class at its definition, so that the error's traceback shows the class and not its first use."""
        super().__init_subclass__(**kwargs)
        if not _is_name(getattr(cls, "onnx_type", None)):
            raise ConfigError(
                f"Class '{cls.__module__}.{cls.__qualname__}' needs a class attribute onnx_type: the type of the ONNX "
                f'node it is exported as, for instance onnx_type = "ReduceMax"; {_found(cls, "onnx_type")}.'
            )
        if not _is_count(cls.num_inputs):
            raise ConfigError(
                f"num_inputs of class '{cls.__module__}.{cls.__qualname__}' must be an int of at least 1, or None for "
                f"any number of inputs; {_found(cls, 'num_inputs')}."
            )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier()


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)


def _found(cls: type, attribute: str) -> str:
    return f"found {getattr(cls, attribute)!r}" if hasattr(cls, attribute) else "it has none"
