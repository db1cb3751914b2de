"""DynamicBackend: names the layers of a model by module paths, reads its graph from ONNX, quantizes it in place."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn

from ...capacity import Capacity
from ...errors import UnsupportedModelError
from ...graph import FoldedNodes, OpGraph
from ...log import get_logger
from ...nn.quantized_layer import QuantizedLayer
from ...nn.weighted_op import WeightedOp
from ...ops.registry import Registry
from ...plan.quant_plan import LayerPlan, QuantPlan
from ...torch_private import BatchNorm, pytree
from ..batches.example import positional
from ..layers.layer_container import LayerContainer
from ..user_model.float_model import cast_to_float32, in_float32, needs_float32, unwrapped
from ..user_model.memory_of_calls import copies_of, refuse_memory
from ..user_model.model_state import run_example
from ..user_model.written_parameters import ParameterSums
from .attention import place_attention
from .forwards import replace_forward, works_in_place
from .hooked_forward import take_root_hooks
from .inner_call import CallingForward
from .inner_norm import CallingNorm, FrozenForward
from .padded_layer import with_margins
from .placer import place_layers
from .read.affine_modules import find_affine_modules
from .read.candidates import Candidate, find_candidates
from .read.dropped_between import Between, find_between
from .read.export import export_marked
from .read.float_forward import FloatForward
from .read.float_model import Fold, FoldedCall, finish_float_model
from .read.float_products import tell_float_products
from .read.folding import Exported, Fusion, folded_modules, part_reason, stages
from .read.graph import build_graph
from .read.in_place import find_read_again
from .read.inner_affines import find_inner_affines
from .read.inner_calls import find_frozen_norms, find_inner_calls, find_inner_norms
from .read.model_copy import copy_model
from .read.pads import find_paddings

_log = get_logger(__name__)


class DynamicBackend:
    """Quantizes one model; works on a copy, which it exports to ONNX once."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        capacity: Capacity | None = None,
        export_setting: Mapping[str, Any] | None = None,
        *,
        takes_other_floats: bool = False,
    ) -> None:
        """Copies and exports ``model``, called with ``inputs``: a dict in the last place may hold keyword arguments.

        ``capacity`` are the rows of the capacity file, None for those of the installed file. ``export_setting`` holds
        ``input_names``, ``output_names`` and ``dynamic_axes``, None if the user gives none. A model in another floating
        type is cast to float32, and its inputs too; ``takes_other_floats`` says that this was done before.

        Raises:
          UnsupportedModelError: The model is quantized already or of a kind that cannot be quantized, or ``inputs``
            holds no tensor.
          ExportError: The model cannot be exported to ONNX.
        """
        if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(inputs)):
            raise UnsupportedModelError("input_data holds no tensor, so the ONNX model would have no input.")
        if any(isinstance(module, QuantizedLayer) for module in model.modules()):
            raise UnsupportedModelError("The model is quantized already. Pass the float model.")
        self._registry = registry = Registry(capacity, with_fx_row=False)
        model = unwrapped(model)
        inputs = positional(inputs, model.forward)
        self.takes_other_floats = takes_other_floats or needs_float32(model)
        self._inputs = inputs = in_float32(inputs) if self.takes_other_floats else inputs
        self._model = copy_model(model)
        cast_to_float32(self._model)
        take_root_hooks(self._model)
        sums = ParameterSums(self._model)
        first = refuse_memory(self._model, lambda: run_example(self._model, inputs))
        sums.refuse_changes(first, lambda: self._run(inputs), lambda: self._run(_other_data(inputs)))
        has_attention = any(isinstance(one, nn.MultiheadAttention) for one in self._model.modules())
        place_attention(self._model)
        self._between: dict[nn.Module, Between | None] = {}
        self._calling: dict[str, CallingForward | CallingNorm | FrozenForward] = {
            **find_paddings(self._model, inputs),
            **find_inner_calls(self._model, inputs, registry),
            **find_inner_norms(self._model, inputs, registry),
            **find_frozen_norms(self._model),
        }
        for forward in self._calling.values():
            replace_forward(forward.original.module, forward)
        affines = find_affine_modules(self._model, inputs, registry)
        self._affines, inner_affines = find_inner_affines(self._model, inputs, registry, {*self._calling, *affines})
        for affine_forward in self._affines.values():
            replace_forward(affine_forward.original.module, affine_forward)
        inner: dict[str, nn.Module] = {path: forward.inner for path, forward in self._calling.items()}
        self._candidates = find_candidates(self._model, registry, inner, {**affines, **inner_affines})
        # Other forwards than the model's own may give other last bits.
        has_own_forwards = not (self._calling or self._affines or has_attention)
        self._known = first if has_own_forwards else None
        in_place = {path: one.module for path, one in self._candidates.items() if works_in_place(one.module)}
        for path in in_place.keys() - find_read_again(self._model, inputs, in_place):
            in_place[path].inplace = False  # type: ignore[assignment]
        self._export = export_marked(self._model, self._candidates, inputs, export_setting or {})
        for path, margins in self._export.margins.items():
            candidate = self._candidates[path]
            padded = with_margins(candidate.module, candidate.op.name, margins)
            self._candidates[path] = dataclasses.replace(candidate, padded=padded)
        tell_float_products(self._export, self._model)

    def _run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        return copies_of(run_example(self._model, inputs))

    def graph(self, fusion: Fusion | None = None) -> OpGraph:
        """Returns the operations of the model; which BatchNorms are layers depends on ``fusion``."""
        exported = Exported(
            export=self._export, candidates=self._candidates, registry=self._registry, fusion=fusion or Fusion()
        )
        graph = build_graph(exported)
        parted = self._parted(graph)
        return build_graph(dataclasses.replace(exported, parted=parted)) if parted else graph

    def _parted(self, graph: OpGraph) -> dict[str, str]:
        """Finds the dropouts between the modules of the folds of ``graph`` in training.

        Returns, with the reason, the members that are not foldable, since something other than a dropout is in between.
        """
        modules = {path: one.module for path, one in self._candidates.items()}
        chains = [(node.layer, folded_modules(node.folded, self._export)) for node in graph]
        pairs = [pair for layer, folded in chains for pair in _neighbours(layer, folded)]
        if {modules[second] for _, second, _ in pairs} - self._between.keys():
            before: dict[nn.Module, set[nn.Module]] = {}
            for first, second, _ in pairs:
                before.setdefault(modules[second], set()).add(modules[first])
            self._between = find_between(self._model, self._inputs, before)
        parted = {}
        for first, second, member in pairs:
            if self._between[modules[second]] is None and member not in parted:
                layer = second if member == first else first
                parted[member] = part_reason(first, second)
                _log.warning("Layer '%s' is not folded into '%s': %s.", member, layer, parted[member])
        return parted

    def place(self, plan: QuantPlan, *, updates_batch_norms: bool = False) -> tuple[nn.Module, LayerContainer]:
        """Returns the quantized model and its layers; see `place_layers`. Changes the copy, so call it last."""
        folded = {name: folded_modules(layer.folded, self._export) for name, layer in plan.layers.items()}
        members = {path for one in folded.values() for path in (*one.front, *one.behind)}
        for path in self._calling.keys() - plan.layers.keys() - members:
            self._calling[path].original.restore()
        folded_affines = {self._candidates[path].module for path in members}
        for affine_forward in self._affines.values():
            affine_forward.keep(folded_affines)
        owners = {name: self._owners(layer) for name, layer in plan.layers.items()}
        between = {norm: dropouts or () for norm, dropouts in self._between.items()}
        layers = place_layers(
            self._model, plan, self._candidates, folded, owners, between, updates_batch_norms=updates_batch_norms
        )
        return self._model, layers

    def folds(self, graph: OpGraph) -> tuple[Fold, ...]:
        """Returns the layers of ``graph``, quantized or not, with the modules folded into them."""
        calls: dict[str, list[FoldedCall]] = {}
        for node in graph:
            if node.folded != FoldedNodes():
                calls.setdefault(node.layer, []).append(FoldedCall(node.name, node.folded.front, node.folded.behind))
        return tuple(self._fold(layer, tuple(found)) for layer, found in calls.items())

    def standing_norms(self, folds: tuple[Fold, ...]) -> dict[str, nn.Module]:
        """Returns the BatchNorms that are not in ``folds``, by node name, so one entry for each call."""
        folded = {member for fold in folds for call in fold.calls for member in call.members}
        paths = {name: path for name, path in self._export.paths.items() if name in self._export.sites}
        modules = {name: self._owner(self._candidates[path]) for name, path in paths.items()}
        return {name: one for name, one in modules.items() if isinstance(one, BatchNorm) and name not in folded}

    def float_model(
        self, plan: QuantPlan, folds: tuple[Fold, ...], settings: Mapping[str, object] | None = None
    ) -> ir.Model:
        """Returns the float model as ONNX, BatchNorms folded, with the sites of the planned layers. Call it once."""
        uses = {use for layer in plan.layers.values() for use in layer.uses}
        finish_float_model(self._export.model, folds, uses, settings or {})
        return self._export.model

    def float_forward(self, folds: tuple[Fold, ...]) -> FloatForward:
        """Returns the reference results for `float_model` with these ``folds``. Only before `place`."""
        modules = {path: one.module for path, one in self._candidates.items()}
        return FloatForward(self._model, self._inputs, self._export, modules, folds, self._known)

    def _owners(self, layer: LayerPlan) -> frozenset[str]:
        """Returns the paths of the modules to which some calls of the layer's module belong, not to the layer."""
        calls = {name for name, path in self._export.paths.items() if path == layer.name and name in self._export.sites}
        return frozenset(self._export.makers[call] for call in calls if call not in layer.uses)

    def _fold(self, layer: str, calls: tuple[FoldedCall, ...]) -> Fold:
        candidate = self._candidates[layer]
        by_call = {name: self._candidates[path] for name, path in self._export.paths.items()}
        front, behind = ([by_call[name] for name in chain] for chain in (calls[0].front, calls[0].behind))
        bare = WeightedOp(candidate.computing, candidate.op.role)
        chains = stages(behind, bare.out_channels, {}), stages(front, bare.in_channels, {})
        op = WeightedOp(candidate.computing, candidate.op.role, *chains)
        owners = tuple(self._owner(member) for member in (*front, *behind) if member.affine is None)
        return Fold(layer=layer, calls=calls, op=op, role=candidate.op.role, batch_norms=owners)

    def _owner(self, norm: Candidate) -> nn.Module:
        """Returns the user's module: the candidate itself, or the module in whose forward the candidate is called."""
        return self._calling[norm.path].original.module if norm.path in self._calling else norm.module


def _other_data(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns an example with other floating values; indices and the like stay."""
    found: tuple[Any, ...] = pytree.tree_map_only(Tensor, lambda x: x * 0.5 if x.is_floating_point() else x, inputs)
    return found


def _neighbours(layer: str, folded: FoldedNodes) -> Iterator[tuple[str, str, str]]:
    """Yields the paths of the neighbours in the chain around ``layer``, and which one is the member."""
    front, behind = (*folded.front, layer), (layer, *folded.behind)
    yield from ((first, second, first) for first, second in itertools.pairwise(front))
    yield from ((first, second, second) for first, second in itertools.pairwise(behind))
