"""Loads a state_dict strictly, as torch does, but in a time that grows as the number of its entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..backends.layers.layer_container import LAYERS

_SHOWN = 5  # names in a message


def load_strictly(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Does what ``model.load_state_dict(state, strict=True)`` does, in a time that grows as the number of entries.

    torch goes through all entries of a module for each of its children: of 4,000 layers that is two minutes.

    Raises:
      RuntimeError: The state does not fit; the text is torch's.
    """
    missing: list[str] = []
    unexpected: list[str] = []
    errors: list[str] = []
    _load(model, dict(state), "", (missing, unexpected, errors))
    for what, keys in (("Unexpected", unexpected), ("Missing", missing)):
        if keys:
            errors.insert(
                0, f"{what} key(s) in state_dict: {', '.join(f'{key!r}' for key in keys)}. ".replace("'", '"')
            )
    if errors:
        raise RuntimeError(f"Error(s) in loading state_dict for {type(model).__name__}:\n\t" + "\n\t".join(errors))


def misfit(model: nn.Module, state: Mapping[str, Tensor], error: RuntimeError) -> str:
    """Returns why ``state`` does not fit ``model``: the text of ``error``, with layers in place of their keys."""
    lines = [line.strip() for line in str(error).splitlines()]
    rest = [line for line in lines[1:] if not line.startswith(("Missing key(s)", "Unexpected key(s)"))]
    expected = _keys_by_layer(model.state_dict())
    found = _keys_by_layer(state)
    both = expected.keys() & found.keys()
    groups = (
        ("Layers that only the model has", [one for one in expected if one not in found]),
        ("Layers that only the state has", [one for one in found if one not in expected]),
        (
            "Layers with other entries in the state",
            [one for one in expected if one in both and expected[one] != found[one]],
        ),
    )
    said = [f"{what}: {_first(names)}." for what, names in groups if names]
    return " ".join([*said, *rest] if len(rest) < len(lines) - 1 else lines)


def _keys_by_layer(state: Mapping[str, Any]) -> dict[str, set[str]]:
    """Returns the entries of each layer, by its path; all of a quantized layer stand in one folder of the container."""
    layers: dict[str, set[str]] = {}
    for key in state:
        depth = 2 if key.startswith(f"{LAYERS}.") else max(1, key.count("."))
        name = ".".join(key.split(".")[:depth])
        layers.setdefault(name, set()).add(key)
    return layers


def _first(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(f"'{one.removeprefix(f'{LAYERS}.')}'" for one in names[:_SHOWN]) + more


def _load(module: nn.Module, entries: dict[str, Any], prefix: str, found: tuple[list[str], ...]) -> None:
    missing, unexpected, errors = found
    module._load_from_state_dict(entries, prefix, {}, True, missing, unexpected, errors)
    of_child: dict[str, dict[str, Any]] = {}
    for key, value in entries.items():
        name, dot, _ = key[len(prefix) :].partition(".")
        if dot:
            of_child.setdefault(name, {})[key] = value
    for name, child in module._modules.items():
        if child is not None:
            _load(child, of_child.get(name, {}), f"{prefix}{name}.", found)
    for hook in module._load_state_dict_post_hooks.values():
        hook(module, _IncompatibleKeys(missing, unexpected))


# What torch gives to the hooks of a module that is loaded.
_IncompatibleKeys = type(nn.Module().load_state_dict({}))
