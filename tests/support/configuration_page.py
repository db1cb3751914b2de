"""docs/configuration.md, made from the tables of the package: ``python -m tests.support.configuration_page``."""

# ruff: noqa: E501 - rows of Markdown tables are long

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from hotwheels.amct_pytorch.config.arguments.algorithms import CLASS_OF_ALGORITHM, OBSERVERS, QUANTIZERS, Algorithm
from hotwheels.amct_pytorch.config.arguments.argument import Argument
from hotwheels.amct_pytorch.config.arguments.ranges import Interval, describe
from hotwheels.amct_pytorch.config.dynamic import document_globals
from hotwheels.amct_pytorch.config.dynamic.calibration_config import CALIBRATION
from hotwheels.amct_pytorch.config.dynamic.layer_dialect import Dialect, TensorKeys
from hotwheels.amct_pytorch.config.dynamic.retrain_config import RETRAIN
from hotwheels.amct_pytorch.config.layers.refine_config import DEFAULT_METHODS, RefineConfig
from hotwheels.amct_pytorch.proto import AMCTConfig, AMCTRetrainConfig

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"

# What each argument of an algorithm means; the page is not made if one is missing.
MEANING = {
    "observer": "class of the observer: of this package, or a dotted path",
    "num_bits": "width of the integers",
    "fixed_min": "the lower end of the range is 0 and is not learned",
    "clip_max": "first value of the learned upper end (ULQ: instead of the observer's; LNQ: in standard deviations)",
    "clip_min": "first value of the learned lower end, instead of the observer's",
    "max_value_eps": "lower bound of the learned end",
    "qscheme": "symmetric: offset 0; affine: with offset; dynamic: with offset if no value is negative",
    "with_offset": "false: symmetric, offset 0",
    "channel_wise": "one scale per output channel; false: one for the tensor",
    "eps": "lower bound of every weight scale",
    "cluster_freq": "training forwards between two clusterings",
    "max_iteration": "most steps of the clustering",
    "min_distance": "the clustering ends when no centroid moves further",
    "cali_min_distance": "the clustering ends when no centroid moves further",
    "symmetric": "8 centroids, mirrored at 0",
    "init_algo": "where the centroids start",
    "scale": "real value of one step; for weights also a list with a value per output channel",
    "zero_point": "the integer for the real value 0",
    "object_layer": "a name for the log",
    "batch_num": "number of calibration batches",
    "max_percentile": "share of the values below the first upper end",
    "min_percentile": "share of the values above the first lower end",
    "search_start": "first candidate, as a factor of the end of the range",
    "search_end": "last candidate, as a factor of the end of the range",
    "search_step": "distance of two candidates; at most search_end - search_start, and at most 10,000 candidates",
    "legacy_negative_full_scale": "divide by 2^(n-1) if the negative side is larger, as the open Ascend tool does",
    "quant_min": "accepted for compatibility; -2^(n-1) is used",
    "quant_max": "accepted for compatibility; 2^(n-1) - 1 is used",
    "steps": "number of candidates",
    "version": "of the file's form",
    "activation_offset": "data has an offset, where `with_offset` does not decide",
    "do_fusion": "fold BatchNorms into the layers in front of them",
    "update_bn": "learn BatchNorm statistics anew before calibration, with non-uniform weights",
    "bn_momentum": "share of a batch in the running statistics",
    "bn_update_iterations": "forwards that your script runs for the update",
}
_HEAD = """# Configuration reference

Every key, with default and range, of the four kinds of configuration files. The tables are made from those that the package
checks values with, by `python -m tests.support.configuration_page`; a test compares them with this page.

| File | Who writes it | Path | Keys |
|---|---|---|---|
| simple configuration, `.yml` or `.yaml` | you | FX | [below](#simple-configuration-yaml) |
| `config.json` | `create_quant_config_fx`, from the simple configuration | FX | [below](#configjson-of-the-fx-path) |
| simple configuration, `.cfg` (protobuf text) | you | dynamic | [calibration](#simple-configuration-of-calibration-cfg), [training](#simple-configuration-of-training-cfg) |
| `config.json` | `create_quant_config`, `create_quant_retrain_config` | dynamic | [calibration](#configjson-of-calibration-dynamic-path), [training](#configjson-of-training-dynamic-path) |

Write a simple configuration and keep it: your script writes `config.json` anew at every run, so changes in `config.json` are lost.
An entry that matches nothing is a WARNING, with `strict=True` or `AMCT_STRICT=1` an error. JSON and YAML take `8.0` for 8 and the words true,
false, yes, no for a bool; JSON may have comments and trailing commas.

## Simple configuration (YAML)

```yaml title="quantize.yml"
skip_layers: [fc]                       # these layers stay in float, whatever follows
common_config:
  activation_quant_params: {quantizer: UlqFakeQuantize, quantizer_args: {num_bits: 8, batch_num: 2}}
override_layer_types:
  - layer_type: [torch.nn.MaxPool2d, AdaptiveAvgPool2d]
    activation_quant_params: {quantizer: LuqActivationFakeQuantize}
override_layer_configs:
  - layer_name: conv1
    activation_quant_params: {quantizer_args: {num_bits: 12}}
refine: true
```

| Key | Type | Meaning |
|---|---|---|
| `skip_layers` | list of layer names | stay in float; above all other keys |
| `om_config.mapping_file` | path | om.json of a converted model: its layers get the widths found there |
| `common_config` | section | settings of every layer |
| `override_layer_types` | list of sections with `layer_type` (a name or a list) | settings of layers of a type |
| `override_layer_configs` | list of sections with `layer_name` (a name or a list) | settings of layers by name |
| `refine` | bool, method, list of methods, or object | [refining](refine.md) after calibration |

A section has any of these keys:

| Key of a section | Type | Default | Meaning |
|---|---|---|---|
| `quant_enable` | bool | true; in `common_config` the default of each operation | false: the layers stay in float. An override switches its layers on unless it says false |
| `activation_quant_params` | object, or a list with one object per input | the next lower level | how data is quantized |
| `weight_quant_params` | object | the next lower level | how the weight is quantized; ignored for layers without weight |
| `quantizer` (in both) | class name or dotted path | the next lower level | [the algorithm](#quantizers) |
| `quantizer_args` (in both) | object | the defaults of the algorithm | its arguments and those of its observer; not merged between levels |

Priority: `skip_layers`, then `override_layer_configs`, then `override_layer_types`, then `om_config`, then `common_config`; later entries of a list win.
`layer_type` takes `Conv2d`, `nn.Conv2d`, `torch.nn.Conv2d` (the module), `F.conv2d`, `torch.add` (the function), `Tensor.add`, `add` (the method) and ONNX
types (`Conv`).
"""
_FX_JSON = """
## config.json of the FX path

One key per layer, in the order of the graph. A layer whose key is deleted stays in float.

| Key of a layer | Type | Default | Meaning |
|---|---|---|---|
| `quant_enable` | bool | required | whether the layer is quantized; `retrain_enable` is the same |
| `activation_quant_params` | list, one object per input; a single object is for all inputs | `UlqFakeQuantize` with 8 bits; matmul: `LuqActivationFakeQuantize`, symmetric | how data is quantized |
| `weight_quant_params` | object | `ArqWeightFakeQuantize` with 8 bits, channel-wise for convolutions | how the weight is quantized |

Each object has `quantizer` and `quantizer_args`. A top-level key `refine` is the section of the simple configuration.
"""
_NOTES = {
    "skip_layers": "layers, or modules that contain layers, that stay in float",
    "skip_layer_types": "ONNX types that stay in float",
    "skip_fusion_layers": "layers whose BatchNorm is not folded",
    "common_config": "settings of every layer",
    "override_layer_types": "settings of layers of an ONNX type",
    "override_layer_configs": "settings of layers by name",
    "layer_type": "ONNX type; torch's names are taken too",
    "layer_name": "path of the module",
    "calibration_config": "the settings",
    "om_config": "widths of a converted model, for `EltwiseAdd` layers",
    "mapping_file": "path of the om.json",
    "refine": "[refining](refine.md) after calibration; absent: none",
    "methods": "what is done; absent: compensated_rounding and bias_correction",
    "name": "compensated_rounding, learned_rounding or bias_correction",
    "layers": "layers and layer types; absent: all",
    "seed": "of the random order",
    "pictures": "calibration pictures that are kept for it",
    "bn_update_config": "used with `update_bn` only",
    "bn_moving_average_fraction": "alias of `bn_momentum`",
    "bn_dump_dir": "ignored",
    "arq_quantize": "uniform weights",
    "snq_quantize": "weights on a codebook, 4 bits",
    "ifmr_quantize": "data",
    "retrain_data_quant_config": "data of every layer",
    "retrain_weight_quant_config": "weights of every layer",
    "ulq_retrain": "data, both ends learned",
    "ulq_quantize": "alias of `ulq_retrain`",
    "luq_retrain": "data, one end learned",
    "luq_quantize": "alias of `luq_retrain`",
    "fixed_quant_param_retrain": "data on a fixed grid",
    "arq_retrain": "uniform weights",
    "lnq_retrain": "weights on a codebook, 4 bits",
    "lnq_quantize": "alias of `lnq_retrain`",
    "clip_max_min": "first ends of the range; absent: found by IFMR",
    "search_range_start": "`search_start` of IFMR",
    "search_range_end": "`search_end` of IFMR",
    "offset": "the integer for the real value 0",
}
_TYPES = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_DOUBLE: "float",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT32: "int",
    FieldDescriptor.TYPE_UINT32: "int >= 0",
    FieldDescriptor.TYPE_STRING: "string",
}


def page() -> str:
    """Returns the page for the tables as they are now."""
    parts = [_HEAD, _refine(), _FX_JSON]
    parts += [
        _algorithms("Quantizers", QUANTIZERS, "An argument that a quantizer and its observer share is given once.")
    ]
    parts += [_algorithms("Observers", OBSERVERS, "Their arguments stand in the `quantizer_args` of their quantizer.")]
    parts += [_cfg("Simple configuration of calibration (.cfg)", AMCTConfig, "create_quant_config")]
    parts += [_cfg("Simple configuration of training (.cfg)", AMCTRetrainConfig, "create_quant_retrain_config")]
    parts += [_dialect("config.json of calibration (dynamic path)", CALIBRATION, _globals(), "search_range")]
    training = (document_globals.VERSION, document_globals.BATCH_NUM)
    parts += [_dialect("config.json of training (dynamic path)", RETRAIN, training, "")]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def _globals() -> tuple[Argument, ...]:
    found = vars(document_globals).values()
    return tuple(one for one in found if isinstance(one, Argument))


def _refine() -> str:
    default = RefineConfig()
    rows = [
        (
            "methods",
            "list, or an object from each method to its layers and types",
            ", ".join(DEFAULT_METHODS),
            "what is done; also learned_rounding",
        ),
        ("seed", "int", str(default.seed), "of the random order"),
        ("pictures", "int", str(default.pictures), "calibration pictures that are kept for it"),
    ]
    return _table(("Key of `refine`", "Type", "Default", "Meaning"), [(f"`{key}`", *rest) for key, *rest in rows])


def _algorithms(title: str, algorithms: Mapping[str, Algorithm], sentence: str) -> str:
    parts = [f"## {title}\n\n{sentence}\n"]
    for name, algorithm in algorithms.items():
        names = [f"`{other}`" for other, cls in CLASS_OF_ALGORITHM.items() if cls == name]
        spellings = f" On the dynamic path: {', '.join(names)}." if names else ""
        observer = f" Default observer: `{algorithm.observer}`." if algorithm.observer else ""
        parts.append(f"### {name}\n\nFor {' and '.join(algorithm.tensors)}.{observer}{spellings}\n")
        same = algorithm.activation == algorithm.weight or not (algorithm.activation and algorithm.weight)
        for tensor in algorithm.tensors[: 1 if same else 2]:
            heading = "Key" if same else f"Key, for {tensor}"
            arguments = algorithm.weight if tensor == "weight" else algorithm.activation
            parts.append(_arguments(arguments.values(), heading))
    return "\n".join(parts)


def _arguments(arguments: Iterable[Argument], heading: str) -> str:
    rows = []
    for one in arguments:
        keys = ", ".join(f"`{key}`" for key in (one.name, *one.aliases))
        rows.append((keys, one.kind, _default(one), _range(one), MEANING[one.name]))
    return _table((heading, "Type", "Default", "Range", "Meaning"), rows)


def _default(one: Argument) -> str:
    return "required" if one.is_required else "-" if one.default is None else _value(one.default)


def _range(one: Argument) -> str:
    text = "-" if one.allowed is None else _interval(one.allowed)
    if one.fallback is not None:
        text += f"; other values: WARNING, {_value(one.fallback)} is used"
    if one.usual is not None:
        text += f"; WARNING outside {describe(one.usual)}"
    return text


def _interval(allowed: Interval | Sequence[Any]) -> str:
    if isinstance(allowed, Interval):
        return describe(allowed)
    numbers = list(allowed)
    if numbers[1:] == list(range(8, 17)):
        return f"{numbers[0]}, 8 to 16"
    return ", ".join(map(_value, numbers))


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _cfg(title: str, message: Any, function: str) -> str:
    parts = [
        f"## {title}\n\nProtobuf text, the argument `config_defination` of `{function}`. Each message is a block `name : {{ ... }}`.\n"
    ]
    waiting, seen = [message.DESCRIPTOR], set()
    while waiting:
        found: Descriptor = waiting.pop(0)
        if found.full_name in seen:
            continue
        seen.add(found.full_name)
        waiting += [field.message_type for field in found.fields if field.message_type is not None]
        parts.append(_table((f"Field of {found.name}", "Type", "Default", "Meaning"), map(_field, found.fields)))
    return "\n".join(parts)


def _field(field: FieldDescriptor) -> tuple[str, ...]:
    kind = _TYPES.get(field.type) or field.message_type.name
    choice = " (one of these)" if field.containing_oneof is not None else ""
    label = "repeated " if field.is_repeated else ""
    default = "required" if field.is_required else _float32(field) if field.has_default_value else "-"
    in_training = field.containing_type.name == "RetrainWeightQuantConfig"
    note = "alias of `arq_retrain`" if in_training and field.name == "arq_quantize" else _NOTES.get(field.name)
    meaning = note or MEANING[field.name]
    return f"`{field.name}`", f"{label}{kind}{choice}", default, meaning


def _float32(field: FieldDescriptor) -> str:
    value = field.default_value
    return f"{value:.6g}" if isinstance(value, float) else _value(value)


def _dialect(title: str, dialect: Dialect, arguments: Iterable[Argument], search: str) -> str:
    parts = [f"## {title}\n", _arguments(arguments, "Key of the file")]
    rows = [(f"`{dialect.switch}`", "bool", "whether the layer is quantized")]
    rows += [_section(dialect.activation, "a list with one object per input")]
    rows += [_section(dialect.weight, "an object")]
    parts.append(_table(("Key of a layer", "Type", "Keys of an object"), rows))
    if search:
        parts.append(
            "`search_range: [start, end]` in the file are `search_start` and `search_end`. `bn_momentum` and `bn_update_iterations`"
            " are keys of the object `bn_update_config`. `skip_fusion_layers` is a list of layers whose BatchNorm is not folded."
            " `refine` is the section of the simple configuration in YAML.\n"
        )
    parts.append("Defaults and ranges are those of the [classes above](#quantizers).\n")
    return "\n".join(parts)


def _section(keys: TensorKeys, kind: str) -> tuple[str, str, str]:
    names = [f"`{name}` ({CLASS_OF_ALGORITHM[name]})" for name in keys.readable]
    written = sorted({key for args in keys.algorithms.values() for key in args})
    return (
        f"`{keys.section}`",
        kind,
        f"`{keys.algorithm}`: {', '.join(names)}; arguments: {', '.join(f'`{one}`' for one in written)}",
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
