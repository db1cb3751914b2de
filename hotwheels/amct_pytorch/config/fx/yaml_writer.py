"""QuantConfig -> simple yaml: the same settings as rules for layers by name, which HiSilicon's tool reads, too."""

from __future__ import annotations

from typing import Any

import yaml

from ..layers.quant_config import LayerConfig, QuantConfig, QuantizerConfig
from ..layers.refine_config import REFINE, refine_document


def to_simple_yaml(config: QuantConfig, title: str = "") -> str:
    """Returns a simple yaml (spec 8.5) that gives every layer of ``config`` its settings there.

    Args:
      config: The settings of all layers of a model.
      title: A comment for the first lines.
    """
    groups: dict[str, tuple[list[str], dict[str, Any]]] = {}
    skipped = []
    for name, layer in config.layers.items():
        if not layer.quant_enable:
            skipped.append(name)
            continue
        sections = _sections(name, layer)
        groups.setdefault(repr(sections), ([], sections))[0].append(name)
    document: dict[str, Any] = {
        "common_config": {"quant_enable": False},
        "override_layer_configs": [{"layer_name": names, **sections} for names, sections in groups.values()],
    }
    if skipped:
        document["skip_layers"] = skipped
    if config.refine is not None:
        document[REFINE] = refine_document(config.refine)
    comment = "".join(f"# {line}\n" for line in title.splitlines())
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return comment + text


def _sections(name: str, layer: LayerConfig) -> dict[str, Any]:
    sections: dict[str, Any] = {} if layer.weight is None else {"weight_quant_params": _quantizer(name, layer.weight)}
    return sections | {"activation_quant_params": [_quantizer(name, one) for one in layer.activations]}


def _quantizer(name: str, config: QuantizerConfig) -> dict[str, Any]:
    """``object_layer`` is left out where it is the layer's own name, which it is by default."""
    args = {key: value for key, value in config.args.items() if (key, value) != ("object_layer", name)}
    return {"quantizer": config.quantizer, "quantizer_args": args}
