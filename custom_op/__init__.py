"""Extension modules: modules for operations that torch offers as functions only; they are quantized and exported.

The package, when imported, finds each file ``<op>/<op>.py`` in its folder that defines a subclass of CustomModuleBase.
"""

from hotwheels.amct_pytorch.custom_op.base import CustomModuleBase
from hotwheels.amct_pytorch.custom_op.cat.cat import Cat
from hotwheels.amct_pytorch.custom_op.discovery import (
    discover_custom_ops,
    register_custom_op,
)
from hotwheels.amct_pytorch.custom_op.eltwise.eltwise import Eltwise
from hotwheels.amct_pytorch.custom_op.eltwise_add.eltwise_add import EltwiseAdd
from hotwheels.amct_pytorch.custom_op.eltwise_div.eltwise_div import EltwiseDiv
from hotwheels.amct_pytorch.custom_op.eltwise_mul.eltwise_mul import EltwiseMul
from hotwheels.amct_pytorch.custom_op.eltwise_sub.eltwise_sub import EltwiseSub
from hotwheels.amct_pytorch.custom_op.matmul.matmul import MatMul
from hotwheels.amct_pytorch.custom_op.max.max import Max
from hotwheels.amct_pytorch.custom_op.min.min import Min
from hotwheels.amct_pytorch.custom_op.split.split import Split

__all__ = [
    "Cat",
    "CustomModuleBase",
    "Eltwise",
    "EltwiseAdd",
    "EltwiseDiv",
    "EltwiseMul",
    "EltwiseSub",
    "MatMul",
    "Max",
    "Min",
    "Split",
    "register_custom_op",
]

discover_custom_ops(__path__, __name__)
