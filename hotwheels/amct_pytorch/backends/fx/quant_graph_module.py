"""QuantGraphModule: the quantized model the user holds; a GraphModule that knows its mode and the next dump."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import fx, nn

from ...config.layers.refine_config import RefineConfig
from ...errors import CalibrationError
from ...log import get_logger
from ...nn.batch_norm_call import BatchNormCall
from ...nn.eager_forward import eagerly
from ...nn.mode import Mode, forcing
from ...nn.module_hooks import has_hooks
from ...nn.quantized_layer import QuantizedLayer
from ...nn.weighted_call import WeightedCall
from ...plan.advice import Advice
from ...plan.configured_graph import ConfiguredGraph
from ...quantizers.learning.recompute import is_recomputing
from ...quantizers.meeting import report_failure
from ...torch_private import unsaved_buffers
from ..batches.input_forms import InputForm, forms_of, noting_inputs
from ..batches.kept_batches import keeping
from ..layers.calibration_forward import any_forward, calibration_forward, warn_of_evaluation_in_training_mode
from ..layers.layer_container import LAYERS, LayerContainer, follow_flag, keeping_inputs, layers_by_name
from ..real_quant.real_gradient import with_gradient_of
from ..real_quant.real_quant_mode import outside_inference_mode
from ..user_model.float_model import in_float32, refuse_arrays
from ..user_model.standing_modules import child_of, follow_modules, refuse_new_forwards
from .addend_ranges import cut_addends
from .float_twin import FloatTwin
from .interpreters import RealQuantInterpreter, RecordingInterpreter, Watcher
from .notebook import table_of
from .portable_graph import dump_graph, load_graph
from .traced_module import TracedModule

_log = get_logger(__name__)
_Places: TypeAlias = dict[str, tuple[bool, "_Places"]]


@dataclasses.dataclass
class Origin:
    """The origin of a quantized model.

    Attributes:
      model: The operations of the float model and their settings.
      advice: The advice that needs no calibration.
      refine: The refinement that the configuration requests after calibration; None for no refinement.
      is_advised: Whether the advice that needs calibration was logged; it is logged once.
      class_name: Class of the user's model.
    """

    model: ConfiguredGraph
    advice: tuple[Advice, ...]
    refine: RefineConfig | None = None
    is_advised: bool = False
    class_name: str = ""


class QuantGraphModule(TracedModule):
    """A traced model with QuantizedLayers, under ``amct_layers``, in place of the operations that are quantized.

    Float, calibration and fake_quant run the generated code. real_quant interprets the graph node by node, because
    values between the layers are float64 there (spec 10.4); so does the one forward after ``watch_next_forward``.
    """

    def recompile(self) -> Any:
        """Wraps forward so that it first selects generated code, the interpreter or real_quant; keeps its signature."""
        code = super().recompile()
        cls = type(self)
        generated = self._forward_to_run(cls.forward)

        @functools.wraps(generated)
        def forward(self: QuantGraphModule, *args: Any, **kwargs: Any) -> Any:
            return eagerly(self._run, generated, args, kwargs)

        cls.forward = forward
        return code

    def _forward_to_run(self, generated: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the forward for float, calibration and fake_quant: the code that torch.fx generated."""
        return generated

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantGraphModule:
        """Copies the graph and all state, including modules that the graph does not call."""
        twin = self.__dict__.pop("_twin", None)  # torch.fx would copy it, too
        try:
            copied: Any = super().__deepcopy__(memo)
        finally:
            self.twin = twin
        copied.twin = copy.deepcopy(twin, memo)
        adopt_state(copied, self, memo)
        copied.__dict__["_takes_other_floats"] = self.takes_other_floats
        copied.__dict__["_origin"] = self.origin
        copied.__dict__["_kept_batches"] = [*self.kept_batches]
        copied.__dict__["_seen_inputs"] = self.seen_inputs
        return cast("QuantGraphModule", copied)

    def __copy__(self) -> QuantGraphModule:
        """Returns a model with the same modules, as of any module; torch.fx would return a GraphModule."""
        copied = object.__new__(type(self))  # torch.fx makes a class for every call of GraphModule.__new__
        vars(copied).update(vars(self))
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the graph itself; torch.fx would pickle generated code, trace it again and return another class."""
        # torch.fx gives every GraphModule a class of its own.
        cls = next(one for one in type(self).__mro__ if not one.__qualname__.endswith("GraphModuleImpl"))
        state = {**vars(self), "_graph": dump_graph(self.graph), "_class_name": type(self).__name__}
        for name in ("_watcher", "_twin"):  # a twin needs the user's class, which a graph does not
            state.pop(name, None)
        state.pop("_kept_batches", None)
        return _new, (cls,), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the state that `__reduce__` has saved."""
        nn.Module.__init__(self)
        graph, type(self).__name__ = load_graph(state.pop("_graph")), state.pop("_class_name")
        vars(self).update(state)
        self.graph = graph
        _look_up_weights_in(self)

    @property
    def quantized_layers(self) -> dict[str, QuantizedLayer]:
        """The layers by name, in graph order."""
        return layers_by_name(_layers_of(self))

    @property
    def mode(self) -> Mode:
        """The mode of all layers."""
        return next(iter(self.quantized_layers.values())).mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        layers = self.quantized_layers.values()
        if layers and self.mode.observes and not mode.observes:
            report_failure(CalibrationError("it has ended the calibration"))
        for layer in layers:
            layer.mode = mode

    @property
    def origin(self) -> Origin | None:
        """The origin of the model; None if it was not recorded."""
        return self.__dict__.get("_origin")

    @origin.setter
    def origin(self, origin: Origin | None) -> None:
        self.__dict__["_origin"] = origin

    @property
    def twin(self) -> FloatTwin | None:
        """The user's float model, to compare with; None if the model was pickled."""
        return self.__dict__.get("_twin")

    @twin.setter
    def twin(self, twin: FloatTwin | None) -> None:
        self.__dict__["_twin"] = twin

    @property
    def takes_other_floats(self) -> bool:
        """Whether inputs of other floating types are cast to float32, because the model was cast."""
        return bool(self.__dict__.get("_takes_other_floats", False))

    @takes_other_floats.setter
    def takes_other_floats(self, takes: bool) -> None:
        self.__dict__["_takes_other_floats"] = takes

    @property
    def kept_batches(self) -> list[tuple[Any, ...]]:
        """The calibration inputs that are kept for the refinement, until it is done."""
        kept: list[tuple[Any, ...]] = self.__dict__.setdefault("_kept_batches", [])
        return kept

    @property
    def seen_inputs(self) -> dict[str, InputForm]:
        """Forms of the arguments of the last forward that observed, by name; empty if none did in this process."""
        return dict(self.__dict__.get("_seen_inputs", {}))

    def _repr_html_(self) -> str:
        return table_of(self.quantized_layers, self.mode.name)

    def train(self, mode: bool = True) -> QuantGraphModule:
        """Sets the training mode, except for BatchNorms that are frozen."""
        super().train(mode)
        follow_flag(self, _layers_of(self))
        return self

    def follow_modules(self) -> None:
        """Makes the layers compute with the present modules of the model; see `standing_modules`."""
        follow_modules(self, _layers_of(self))
        refuse_new_forwards(_layers_of(self))

    def watch_next_forward(self, watcher: Watcher) -> None:
        """Calls ``watcher`` with the result of every node of the next forward, once."""
        self.__dict__["_watcher"] = watcher

    def _run(self, generated: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        watcher: Watcher | None = self.__dict__.pop("_watcher", None)
        refuse_arrays((*args, *kwargs.values()))
        if self.takes_other_floats:
            args, kwargs = in_float32(args), in_float32(kwargs)
        mode = self.mode
        observes = mode.observes and not is_recomputing()
        self.follow_modules()
        follow_flag(self, _layers_of(self))
        self._warn_of_hooked_containers()
        if mode in (Mode.FAKE_QUANT, Mode.REAL_QUANT):
            warn_of_evaluation_in_training_mode(self, _layers_of(self))
        refines = self.origin is not None and self.origin.refine is not None
        calibration = functools.partial(calibration_forward, self, _layers_of(self), is_refined_next=refines)
        with (
            calibration() if observes else contextlib.nullcontext(),  # commits at the end
            noting_inputs(functools.partial(names_of_inputs, self), args, kwargs, self.seen_inputs),
            any_forward(),
        ):
            if mode is Mode.REAL_QUANT:
                return self._run_real_quant(generated, watcher, args, kwargs)
            with self._observing(args, kwargs) if observes else contextlib.nullcontext():
                if watcher is None:
                    return generated(self, *args, **kwargs)
                with self.keeping_inputs():
                    return RecordingInterpreter(self, watcher).run(*positional(self, args, kwargs))

    def _warn_of_hooked_containers(self) -> None:
        """Warns, once for each, of containers with hooks: the graph calls none of them."""
        warned = self.__dict__.setdefault("_warned_containers", set())
        for path in _hooked_in(self, self._containers()):
            if path not in warned:
                warned.add(path)
                _log.warning(
                    "Hooks on '%s' do not run: the graph calls the modules inside, not the container. Set them on one"
                    " of these, or on the float model before it is quantized.",
                    path,
                )

    def _containers(self) -> _Places:
        """Returns the places of modules that contain called modules and are not called themselves."""
        found: _Places | None = self.__dict__.get("_container_places")
        if found is None:
            called = {str(node.target) for node in self.graph.nodes if node.op == "call_module"} | set(
                _layers_of(self)._standing
            )
            prefixes = {path[:end] for path in called for end in _dots_in(path)}
            found = self.__dict__["_container_places"] = _places_of(prefixes - called - {LAYERS})
        return found

    @contextlib.contextmanager
    def _observing(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        """Keeps the forms of the inputs of a calibration forward, if it succeeds, and the inputs for the refinement."""
        wanted = None if self.origin is None else self.origin.refine
        pictures = 0 if wanted is None else wanted.pictures
        seen = forms_of(names_of_inputs(self), args, kwargs)
        layers = self.quantized_layers
        is_plain = self.mode is Mode.CALIBRATION and not _are_calibrated(layers)
        with keeping(self.kept_batches, pictures, positional(self, args, kwargs)):
            yield
            if is_plain and _are_calibrated(layers):
                cut_addends(self, layers)
        self.__dict__["_seen_inputs"] = seen

    def _run_real_quant(
        self, generated: Callable[..., Any], watcher: Watcher | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        with torch.no_grad():
            interpreter = RealQuantInterpreter(self, watcher)
            real = outside_inference_mode(interpreter.run, positional(self, args, kwargs), {})
        if not torch.is_grad_enabled():
            return real
        with forcing(Mode.FAKE_QUANT):
            fake = generated(self, *args, **kwargs)
        return with_gradient_of(real, fake)

    @contextlib.contextmanager
    def keeping_inputs(self) -> Iterator[None]:
        """Returns a context in which layers do not overwrite their inputs, so that results of nodes stay readable."""
        with keeping_inputs(self.quantized_layers.values()):
            yield


def _are_calibrated(layers: Mapping[str, QuantizedLayer]) -> bool:
    return all(layer.is_calibrated for layer in layers.values())


def adopt_state(target: nn.Module, source: nn.Module, memo: dict[int, Any] | None = None) -> None:
    """Registers in ``target`` the children, parameters and buffers of ``source`` that a GraphModule does not copy.

    A GraphModule takes only the modules that its graph calls, so not those inside QuantizedLayers, and no unused heads.
    Weights of functions are looked up in ``target`` from then on.
    With a ``memo`` of ``copy.deepcopy``, the copies in ``memo`` are registered.
    """
    for kind in ("_modules", "_parameters", "_buffers"):
        for name, value in getattr(source, kind).items():
            getattr(target, kind)[name] = value if memo is None else copy.deepcopy(value, memo)
    unsaved_buffers(target).update(unsaved_buffers(source))
    _look_up_weights_in(target)


def _places_of(paths: Collection[str]) -> _Places:
    """Returns ``paths`` as a tree: by name of a child, whether its path is one of ``paths``, and the tree inside."""
    places: _Places = {}
    for path in paths:
        inside, names = places, path.split(".")
        for end, name in enumerate(names, 1):
            inside = inside.setdefault(name, (".".join(names[:end]) in paths, {}))[1]
    return places


def _hooked_in(module: Any, places: _Places, prefix: str = "") -> list[str]:
    """Returns those of the paths in ``places`` whose modules have hooks."""
    found = []
    for name, (counts, inside) in places.items():
        child = child_of(module, name)
        if counts and has_hooks(child):
            found.append(prefix + name)
        if inside:
            found += _hooked_in(child, inside, f"{prefix}{name}.")
    return found


def _dots_in(path: str) -> list[int]:
    return [index for index, letter in enumerate(path) if letter == "."]


def _layers_of(model: nn.Module) -> LayerContainer:
    return cast(LayerContainer, model._modules[LAYERS])


def _look_up_weights_in(target: nn.Module) -> None:
    for call in (one for one in target.modules() if isinstance(one, (WeightedCall, BatchNormCall))):
        call.tree.root = target


def _new(cls: type[QuantGraphModule]) -> QuantGraphModule:
    return cls.__new__(cls)


def names_of_inputs(module: fx.GraphModule) -> list[str]:
    """Returns the names of the arguments of the forward, in order; ``*args`` with its star."""
    return [str(node.target) for node in module.graph.nodes if node.op == "placeholder"]


def positional(module: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Returns the arguments in placeholder order, as an interpreter needs them, with defaults for absent arguments.

    Those of ``*args`` follow one by one.
    """
    names = names_of_inputs(module)
    values = dict(zip(names, args, strict=False)) | kwargs
    given: list[Any] = []
    for index, name in enumerate(names):
        if name.startswith("*"):
            given += args[index:]
            break
        if name not in values:
            break
        given.append(values[name])
    return tuple(given)
