"""How much noise at the output of a network each layer makes when only that layer is quantized.

The error of a layer's own output is computed exactly, its way to the output is linearized: for a random direction v
with unit variance, the mean of (v^T J e)^2 is the power of J e, and one backward pass gives v^T J for all layers.
So the cost is that of some forwards and backwards, whatever the number of layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ...nn.mode import Mode, forcing
from ...nn.quantized_layer import QuantizedLayer
from ...torch_private import pytree
from ..batches.outputs import output_tensors
from .quant_graph_module import QuantGraphModule, positional


class OutputNoise:
    """Sums, over batches, the noise of each layer under each of several settings.

    Attributes:
      power: For each setting and layer: sum of the squared errors at the outputs, in units of each output's power.
      unknown: Layers from which no gradient arrives at the output.
    """

    def __init__(self, models: Mapping[str, QuantGraphModule], seed: int, draws: int) -> None:
        """Takes calibrated models of one float model, by the name of their setting.

        Args:
          models: They have the same layers.
          seed: Of the random directions.
          draws: Number of directions per batch.
        """
        self._models = models
        self._draws = draws
        self._generator = torch.Generator().manual_seed(seed)
        self.power: dict[str, dict[str, float]] = {name: {} for name in models}
        self.unknown: set[str] = set()
        self._batches = 0

    def add(self, batch: tuple[Any, ...]) -> None:
        """Adds one batch."""
        reference = next(iter(self._models.values()))
        with forcing(Mode.FLOAT), _keeping_inputs(self._models.values()), torch.enable_grad():
            run = _Probe(reference, self._models)
            result = run.run(*positional(reference, _with_gradient(batch), {}))
        outputs = [one for one in output_tensors(result) if one.requires_grad]
        self.unknown |= run.without_gradient if outputs else {*run.without_gradient, *run.outputs}
        if not outputs:
            return
        scales = [_scale(one, len(outputs)) for one in outputs]
        for _ in range(self._draws):
            directions = [
                (torch.randn(one.shape, generator=self._generator) * scale).to(one)
                for one, scale in zip(outputs, scales, strict=True)
            ]
            targets = list(run.outputs.values())
            gradients = torch.autograd.grad(outputs, targets, directions, retain_graph=True, allow_unused=True)
            for layer, gradient in zip(run.outputs, gradients, strict=True):
                if gradient is None:
                    self.unknown.add(layer)
                    continue
                for name, errors in run.errors.items():
                    arrived = _rows(gradient * errors[layer], batch).sum(1, dtype=torch.float64)
                    power = self.power[name]
                    power[layer] = power.get(layer, 0.0) + float(arrived.square().sum())
        self._batches += 1

    def relative(self) -> dict[str, dict[str, float]]:
        """Returns, for each setting and layer, noise power over signal power at the output."""
        count = max(self._batches, 1) * self._draws
        return {name: {layer: power / count for layer, power in one.items()} for name, one in self.power.items()}


class _Probe(fx.Interpreter):
    """The float forward; keeps the output of every layer, and what the layer's error is under each setting."""

    def __init__(self, reference: QuantGraphModule, models: Mapping[str, QuantGraphModule]) -> None:
        super().__init__(reference)
        self._models = models
        self.outputs: dict[str, Tensor] = {}
        self.errors: dict[str, dict[str, Tensor]] = {name: {} for name in models}
        self.without_gradient: set[str] = set()

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        result = super().call_module(target, args, kwargs)
        if not isinstance(module, QuantizedLayer):
            return result
        exact = _first_tensor(result)
        if exact is None:
            return result
        if not exact.requires_grad:
            self.without_gradient.add(module.name)
            return result
        with torch.no_grad(), forcing(Mode.FAKE_QUANT):
            for name, model in self._models.items():
                rounded = model.get_submodule(str(target))(*args, **kwargs)
                self.errors[name][module.name] = _first_tensor(rounded) - exact  # type: ignore[operator]
        self.outputs[module.name] = exact
        # A tensor of its own goes on: what works in place on it leaves the one that is asked for its gradient.
        return pytree.tree_map(lambda one: one * 1 if one is exact else one, result)


def _scale(output: Tensor, count: int) -> float:
    power = float(output.detach().double().square().sum()) * count
    return power**-0.5 if power else 0.0


@contextlib.contextmanager
def _keeping_inputs(models: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(model.keeping_inputs())
        yield


def _with_gradient(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns copies of the tensors; those of floating type want a gradient, so that there is one at each layer."""

    def copied(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        return one.detach().clone().requires_grad_(one.is_floating_point())

    return pytree.tree_map(copied, batch)  # type: ignore[no-any-return]


def _first_tensor(result: Any) -> Tensor | None:
    return next((one for one in output_tensors(result) if one.is_floating_point()), None)


def _rows(products: Tensor, batch: tuple[Any, ...]) -> Tensor:
    """One row per picture where the first axis is that of the batch, which scatters less; else one row."""
    sizes = [len(one) for one in pytree.tree_leaves(batch) if isinstance(one, Tensor) and one.dim()]
    is_per_picture = products.dim() > 0 and sizes and products.shape[0] == sizes[0]
    return products.flatten(1) if is_per_picture and products.dim() > 1 else products.reshape(1, -1)
