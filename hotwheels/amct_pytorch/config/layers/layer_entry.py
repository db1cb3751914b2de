"""The common parts of a layer's entry in every config.json: name, switch, one entry per input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from ...errors import ConfigError, nearest_names
from ...graph import OpGraph, OpNode
from ...log import get_logger
from ..arguments.coercion import as_bool
from ..arguments.section import Section
from ..arguments.unmatched import report_unmatched
from .quant_config import QuantizerConfig

SWITCHES = ("quant_enable", "retrain_enable")  # two names of one key
Entry = TypeVar("Entry")
SectionReader: TypeAlias = Callable[[object, str], Section]

_log = get_logger(__name__)
_REGISTER = " If it is a custom operation: register its class in each process (amct.register_custom_op)."


def check_known(name: str, graph: OpGraph, source: str) -> None:
    """Raises ConfigError if ``name`` is not the name of a quantizable layer.

    A node that is now part of another layer gives only a WARNING: older versions wrote an entry for it.
    """
    problem = why_unmatched(name, graph)
    if problem is not None and graph.nodes.get(name) is not None and graph[name].part_of is not None:
        report_unmatched([name], lambda name: f"Layer '{name}' in {source} {problem} Its entry is left out.")
    elif problem is not None:
        raise ConfigError(f"Layer '{name}' in {source} {problem}")


def read_switch(given: Mapping[str, Any], where: str) -> bool:
    """Returns whether the layer is enabled; True without a switch. Raises ConfigError."""
    found = {key: as_bool(given[key], f"{where}: {key}") for key in SWITCHES if given.get(key) is not None}
    if len(set(found.values())) > 1:
        raise ConfigError(f"{where}: {found}; quant_enable and retrain_enable mean the same, so they must be equal.")
    return next(iter(found.values()), True)


def read_activations(
    given: object, defaults: tuple[QuantizerConfig, ...], where: str, read: SectionReader
) -> tuple[QuantizerConfig, ...]:
    """Returns one entry per element of the list ``given``; an object applies to all inputs, None gives ``defaults``.

    Raises:
      ConfigError: ``read`` refuses an entry. `apply_rules` checks the number of entries.
    """
    if given is None:
        return defaults
    entries = given if isinstance(given, list) else [given] * len(defaults)
    # Entries beyond the inputs are kept here, so that `apply_rules` can report them.
    padded = [*defaults, *defaults[:1] * len(entries)]
    return tuple(
        read(entry, f"{where}[{index}]").over(default)
        for index, (entry, default) in enumerate(zip(entries, padded, strict=False))
    )


def without_weight_operand(node: OpNode, entries: Sequence[Entry], where: str) -> tuple[Entry, ...]:
    """Returns the entries of a product's inputs without the entry of an operand that is a weight.

    A document may have one entry for each of the two operands, but the weight is configured in its own section.
    """
    if not node.has_weight_operand or len(entries) != len(node.edges) + 1:
        return tuple(entries)
    _log.info("%s: the second input is a weight of the model; weight_quant_params says how it is quantized.", where)
    return tuple(entries[:-1])


def read_weight(
    given: object, default: QuantizerConfig | None, where: str, key: str, read: SectionReader
) -> QuantizerConfig | None:
    """Returns the weight's entry; None for a layer without weight (``default`` None). Raises ConfigError."""
    if default is None:
        if given is not None:
            report_unmatched([key], lambda key: f"{where}: {key} is ignored, the layer has no weight.")
        return None
    return default if given is None else read(given, f"{where}, {key}").over(default)


def report_names(graph: OpGraph, names: Iterable[str], where: str) -> None:
    """Reports those of ``names`` that are no quantizable layer, except empty names, which mean no layer."""
    report_unmatched(
        [name for name in names if name and name not in graph.layers],
        lambda name: f"{where}: layer '{name}' {why_unmatched(name, graph)}",
    )


def why_unmatched(name: str, graph: OpGraph) -> str | None:
    """Returns the end of a sentence that begins with ``Layer 'x'``; None if ``name`` is a quantizable layer."""
    if name in graph.layers:
        return None
    if name not in graph.nodes:
        names = nearest_names(name, list(graph.layers))
        return f"is not in the model. {names}{'' if names.startswith('Did') else _REGISTER}"
    reason = graph[name].unquantizable or "its operation is not in the list of quantizable operations"
    return f"cannot be quantized: {reason}."
