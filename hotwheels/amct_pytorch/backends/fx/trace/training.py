"""``module.training`` while tracing: records where the graph uses its value, and where Python branched on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import Argument, map_aggregate

from ....log import get_logger, listed
from .user_code import line_being_traced

_log = get_logger(__name__)
_WITHOUT_BRANCH = "Use nn.Dropout or F.dropout(x, p, self.training), or create it from the model in eval mode."
_MOST_MODULES = 3  # that one line of code names
_ONLY_FOR_TRAINING = (
    "Without training nothing is to be done. For training, use modules that branch themselves, such as nn.Dropout and"
    " nn.BatchNorm2d."
)


@dataclasses.dataclass(frozen=True)
class TrainingBranch:
    """A place where Python code branched on a module's training flag.

    Attributes:
      path: The module; empty for the model itself.
      line: The user's line, as in a traceback.
    """

    path: str
    line: str


class TrainingFlag(int):
    """The value of ``module.training`` while tracing: the model can use it as a bool, and the graph can recognise it.

    Attributes:
      path: Path of the module.
      branches: The places that read the truth of a flag; shared by all flags of a trace.
    """

    path: str
    branches: list[TrainingBranch]

    @classmethod
    def of(cls, is_training: bool, path: str, branches: list[TrainingBranch]) -> TrainingFlag:
        """Returns the flag of the module ``path``."""
        flag = cls(is_training)
        flag.path, flag.branches = path, branches
        return flag

    def __bool__(self) -> bool:
        """Notes the branch."""
        line = line_being_traced()
        if line:
            self.branches.append(TrainingBranch(self.path, line))
        return int(self) != 0

    def __repr__(self) -> str:
        """Returns the text of the bool, because generated code contains it."""
        return repr(int(self) != 0)


def mark_training(model: nn.Module, leaves: set[nn.Module]) -> list[TrainingBranch]:
    """Replaces ``training`` of the modules of ``model`` by TrainingFlags, except for ``leaves``.

    Returns:
      The list that collects the branches.
    """
    branches: list[TrainingBranch] = []
    for path, module in model.named_modules():
        if "training" in vars(module) and module not in leaves:
            vars(module)["training"] = TrainingFlag.of(bool(module.training), path, branches)
    return branches


def tell_branches(
    model: nn.Module, branches: Sequence[TrainingBranch], calls: Sequence[str], trace_again: Callable[[], Sequence[str]]
) -> None:
    """Warns of the branches on ``training`` in the forwards of ``model`` if the graph differs in the other mode.

    Args:
      model: The model.
      branches: The places, from a trace of ``model`` in its present mode.
      calls: The calls of that trace, see `calls_of`.
      trace_again: Traces ``model`` in its mode at that moment and returns the calls.
    """
    if not branches:
        return
    mode = {module: module.training for module in model.modules()}
    graphs = []
    try:
        for is_training in (False, True):
            is_present = all(one == is_training for one in mode.values())
            model.train(is_training)
            graphs.append(list(calls if is_present else trace_again()))
    except Exception as error:  # the other mode cannot be traced; the user's forward may raise anything
        _log.debug("The forward cannot be traced in the other mode: %s", error)
    finally:
        for module, is_training in mode.items():
            module.training = is_training
    if len(graphs) == 2 and graphs[0] == graphs[1]:
        return
    modules: dict[str, dict[str, None]] = {}  # by line of code, each once, in the order of the forward
    for one in branches:
        modules.setdefault(" ".join(one.line.split()), {})[f"'{one.path or type(model).__name__}'"] = None
    present, repair = ("training", _WITHOUT_BRANCH) if model.training else ("evaluation", _ONLY_FOR_TRAINING)
    _log.warning_of_code(
        [f"{listed(list(names), _MOST_MODULES, ', ')}: {line}" for line, names in modules.items()],
        "The forward branches on self.training, and the traced model holds the branch of the mode the model is in now"
        f" ({present}) in every mode and file. {repair}",
    )


def calls_of(module: GraphModule) -> tuple[str, ...]:
    """Returns a text for each node: what is called, with which arguments."""
    return tuple(f"{node.op} {node.target} {node.args} {node.kwargs}" for node in module.graph.nodes)


def read_flags(module: GraphModule) -> bool:
    """Makes calls that got a flag read it from its module in every run; returns whether there are such calls."""
    reading = [node for node in module.graph.nodes if _has_flag(node)]
    for node in reading:
        with module.graph.inserting_before(node):
            node.args = _with_flags_read(node, module, node.args)
            node.kwargs = _with_flags_read(node, module, node.kwargs)
    return bool(reading)


def _has_flag(node: Node) -> bool:
    flags: list[TrainingFlag] = []

    def note(value: Argument) -> Argument:
        if isinstance(value, TrainingFlag):
            flags.append(value)
        return value

    map_aggregate((node.args, node.kwargs), note)
    return bool(flags)


def _with_flags_read(node: Node, module: GraphModule, arguments: Any) -> Any:
    def read(value: Argument) -> Argument:
        if not isinstance(value, TrainingFlag):
            return value
        if node.op != "call_function" and node.op != "call_method":
            return int(value) != 0
        make_modules(module, value.path.split(".") if value.path else [], int(value) != 0)
        # Not graph.get_attr, which warns of attributes that are no tensor.
        target = f"{value.path}.training" if value.path else "training"
        return module.graph.create_node("get_attr", target, (), {})

    return map_aggregate(arguments, read)


def make_modules(root: nn.Module, parts: list[str], is_training: bool | None = None) -> nn.Module:
    """Returns the module at the path of these ``parts`` below ``root``.

    Modules that are missing on the way, because the graph calls nothing in them, are made: in the mode ``is_training``,
    or, if that is None, in the mode of the module around them.
    """
    home = root
    for part in parts:
        if part not in home._modules:
            home.add_module(part, nn.Module().train(home.training if is_training is None else is_training))
        home = home.get_submodule(part)
    return home
