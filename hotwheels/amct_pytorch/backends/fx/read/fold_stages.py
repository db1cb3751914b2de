"""Makes stages of nodes that can be members of a chain, which is folded into a weight."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor
from torch.fx import GraphModule, Node

from ....nn.norm_chain import FactorStage, NumberStage, PassStage, ShiftStage, Stage
from ....ops.desc import OpDesc, Role
from ....ops.registry import Registry
from ....torch_private import Dropout
from ...layers.channel_axis import ChannelAxis
from ...layers.folding import Member, Unfolded, batch_norm_stage
from ..rewrite.weight_sources import WeightSources
from .operands import operand_values
from .spelling import find_op, in_place_reason

NodeMember: TypeAlias = "Member[Node]"


class StageMaker:
    """Makes the stages of one graph."""

    def __init__(self, graph_module: GraphModule, registry: Registry) -> None:
        self._module = graph_module
        self._registry = registry
        self._sources = WeightSources(graph_module)

    def op(self, node: Node) -> OpDesc | None:
        """Returns the description of ``node`` in the registry; None if it has none."""
        module = self.called(node)
        return find_op(node, None if module is None else type(module), self._registry)

    def called(self, node: Node) -> Any:
        """Returns the module that ``node`` calls; None if it calls none."""
        return self._module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def is_batch_norm(self, node: Node) -> bool:
        """Whether ``node`` is a BatchNorm."""
        op = self.op(node)
        return op is not None and op.role is Role.BATCH_NORM and self.called(node) is not None

    def dropout(self, node: Node) -> Stage | None:
        """Returns the stage of a dropout; None for any other node."""
        module = self.called(node)
        return PassStage(module) if isinstance(module, Dropout) else None

    def number(self, node: Node, weighted: Any, channels: int) -> NodeMember | None:
        """Returns a sum or product of the data and a Python number as a member; None for other operations.

        ``weighted`` is the module with the weight, ``channels`` the number of channels of the data.
        """
        op = self.op(node)
        if op is None or op.name not in _ARITHMETIC or node.op == "call_module" or in_place_reason(node) is not None:
            return None
        names, values = {operand.name for operand in op.operands}, operand_values(node, op)
        if len(node.args) > len(values) or not names.issuperset(node.kwargs) or len(values) != 2:
            return None
        is_first = not isinstance(values[0], Node)
        data, number = reversed(values) if is_first else values
        if not isinstance(data, Node) or type(number) not in (int, float) or not math.isfinite(number):
            return None
        if op.name == "div" and (is_first or number == 0):
            return None
        run = NumberCall(_ARITHMETIC[op.name], number, is_first)
        return Member(data, NumberStage(weighted, run, channels, *run.affine()), is_factor=op.name in ("mul", "div"))

    def data_of(self, node: Node) -> Node | None:
        """Returns the node whose result ``node`` changes; None if ``node`` cannot be a member."""
        if self.is_batch_norm(node):
            return node.args[0] if node.args else node.kwargs.get("input")  # type: ignore[return-value]
        operands = self._operands(node)
        return None if operands is None else operands[0]

    def member(self, node: Node, axis: ChannelAxis, channels: int) -> NodeMember | Unfolded | None:
        """Returns ``node`` as a member; the reason if a BatchNorm is none; None for other kinds of operations.

        Args:
          node: The operation.
          axis: The axis of the channels in its data.
          channels: Their number.
        """
        data = self.data_of(node)
        if data is None or in_place_reason(node) is not None:
            return None
        if self.is_batch_norm(node):
            stage = batch_norm_stage(self.called(node), self._registry, axis, channels, data.name)
            return stage if isinstance(stage, Unfolded) else Member(data, stage)
        _, constant, is_first = self._operands(node) or (None, None, False)
        values = self._sources.tensor(constant)
        if values is None or not values.is_spread(axis.is_spread_by, channels):
            return None
        op = self.op(node)
        assert op is not None
        if op.name in ("mul", "div"):
            is_quotient = op.name == "div"
            return None if is_quotient and is_first else Member(data, FactorStage(values, is_quotient), is_factor=True)
        is_difference = op.name == "sub"
        return Member(data, ShiftStage(values, channels, is_difference and not is_first, is_difference and is_first))

    def _operands(self, node: Node) -> tuple[Node, Node, bool] | None:
        """Returns (data, constant, whether the constant comes first) of a sum or product; None for other calls."""
        op = self.op(node)
        if op is None or op.name not in _ARITHMETIC or node.op == "call_module":
            return None
        names = {operand.name for operand in op.operands}
        values = operand_values(node, op)
        if len(node.args) > len(values) or not names.issuperset(node.kwargs) or len(values) != 2:
            return None
        first, second = values
        if not isinstance(first, Node) or not isinstance(second, Node):
            return None
        if (first in self._sources) is (second in self._sources):
            return None
        return (second, first, True) if first in self._sources else (first, second, False)


@dataclasses.dataclass(frozen=True)
class NumberCall:
    """A call of ``function`` on the data and a number, which is the first operand if ``is_first``."""

    function: Callable[[Any, Any], Any]
    number: float
    is_first: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Calls the function."""
        result: Tensor = self.function(self.number, x) if self.is_first else self.function(x, self.number)
        return result

    def affine(self) -> tuple[float, float]:
        """Returns factor and shift of the data."""
        if self.function is operator.mul:
            return self.number, 0
        if self.function is operator.truediv:
            return 1 / self.number, 0
        if self.function is operator.add:
            return 1, self.number
        return (-1, self.number) if self.is_first else (1, -self.number)


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "mul": operator.mul,
    "div": operator.truediv,
    "add": operator.add,
    "sub": operator.sub,
}
