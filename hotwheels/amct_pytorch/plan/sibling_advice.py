"""Advice on inputs that read the same tensor with different settings.

HiSilicon's AMCT manual, chapter "The converter fails on siblings with different factors"
[兄弟节点量化系数不一致导致atc报错].
"""

from __future__ import annotations

from .advice import Advice, AdviceRule, Document, Remedy
from .configured_graph import ConfiguredGraph, LayerInput
from .remedies import left_in_float, unified

REASON = "The converter wants one data type and one grid for all readers of a tensor and may refuse the model otherwise"

_Conflicts = dict[str, list[LayerInput]]  # by the tensor's node: its first reader, and the readers that differ from it


def sibling_advice(model: ConfiguredGraph) -> tuple[Advice, ...]:
    """Returns one piece of advice for each setting in which siblings differ; its configuration mends all of them."""
    found: dict[str, _Conflicts] = {}
    for producer, (first, *others) in model.readers.items():
        for other in others:
            setting = model.difference(first, other)
            if setting:
                found.setdefault(setting, {}).setdefault(producer, [first]).append(other)
    return tuple(_advice(model, setting, conflicts) for setting, conflicts in found.items())


def _advice(model: ConfiguredGraph, setting: str, conflicts: _Conflicts) -> Advice:
    layers = {one.layer for inputs in conflicts.values() for one in inputs}
    return Advice(
        rule=AdviceRule.SIBLINGS,
        layers=tuple(name for name in model.graph.nodes if name in layers),
        finding=f"Different {setting}: {'; '.join(_in_words(*conflict) for conflict in conflicts.items())}",
        reason=REASON,
        remedies=_remedies(model, setting, [inputs[0] for inputs in conflicts.values()]),
    )


def _in_words(producer: str, inputs: list[LayerInput]) -> str:
    first, *others = inputs
    names = dict.fromkeys(f"'{one.layer}'" for one in others)
    return f"'{first.layer}' and {', '.join(names)}, which read '{producer}'"


def _remedies(model: ConfiguredGraph, setting: str, inputs: list[LayerInput]) -> tuple[Remedy, ...]:
    same = Remedy("Quantize them in the same way", unified(model, inputs))
    if setting != "quant_enable":
        return (same,)
    quantized = [one.layer for first in inputs for one in model.one_grid(first) if model.layer(one.layer) is not None]
    skipped = _skip(left_in_float(model, quantized))
    return (same, *skipped)


def _skip(settings: Document | None) -> tuple[Remedy, ...]:
    return () if settings is None else (Remedy("Leave all of them in float", settings),)
