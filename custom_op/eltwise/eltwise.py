"""Eltwise: the four element-wise operations under one name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hotwheels.amct_pytorch.custom_op.base import CustomModuleBase
from hotwheels.amct_pytorch.custom_op.eltwise_add.eltwise_add import EltwiseAdd
from hotwheels.amct_pytorch.custom_op.eltwise_div.eltwise_div import EltwiseDiv
from hotwheels.amct_pytorch.custom_op.eltwise_mul.eltwise_mul import EltwiseMul
from hotwheels.amct_pytorch.custom_op.eltwise_sub.eltwise_sub import EltwiseSub
from hotwheels.amct_pytorch.errors import ConfigError

_CLASSES: Mapping[str, type[CustomModuleBase]] = MappingProxyType(
    {"add": EltwiseAdd, "sub": EltwiseSub, "mul": EltwiseMul, "div": EltwiseDiv}
)


class Eltwise(CustomModuleBase):
    """``Eltwise(op)`` makes the EltwiseAdd, EltwiseSub, EltwiseMul or EltwiseDiv that ``op`` names.

    No object has the class Eltwise itself. The capacity file pairs one class with one ONNX type, so a class whose
    instances compute different operations could be neither listed nor exported with the right type.

    Raises:
        ConfigError: ``op`` is not one of add, sub, mul, div.
        TypeError: At the definition of a subclass of Eltwise; derive from one of the four classes.
    """

    onnx_type = "Add"  # the type of the default operation
    num_inputs = 2

    # Python does not call __init__ on the result, which is no Eltwise; so the result is initialized here.
    def __new__(cls, op: str = "add") -> CustomModuleBase:  # type: ignore[misc]
        """Takes the name of the operation."""
        if op not in _CLASSES:
            raise ConfigError(f"op of Eltwise must be one of {', '.join(map(repr, _CLASSES))}, got {op!r}.")
        return _CLASSES[op]()

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Raises, as ``__new__`` would return an instance of the four classes and not of the subclass."""
        raise TypeError(
            f"Class '{cls.__module__}.{cls.__qualname__}' cannot be derived from Eltwise, which only chooses among "
            f"{', '.join(known.__name__ for known in _CLASSES.values())}; derive it from one of these."
        )
