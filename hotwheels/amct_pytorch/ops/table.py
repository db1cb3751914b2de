"""The table of operations: every spelling of every layer that can be quantized (spec 8.3), in one place.

The first function name of an object is its type string; names further right are other spellings of the operation, or
other names of the same object (``torch.relu_`` is ``torch.nn.functional.relu_``). Three habits of ``torch.fx`` decide
which spellings occur in a graph:

- ``F.sigmoid`` and ``F.tanh`` are recorded as the Tensor methods they call, ``F.upsample`` as ``F.interpolate``;
- ``x += y`` and ``operator.iadd(x, y)`` are recorded as ``operator.add``; ``operator.iadd`` occurs in graphs made by
  other means only, and is a separate type string there;
- a plain tensor on the left (``self.scale * x``) is recorded as the Tensor method (``mul``).
"""

from __future__ import annotations

from .desc import OpDesc, Operand, Role

_F = "torch.nn.functional."
_AMCT = "hotwheels.amct_pytorch.nn."

_INPUT = Operand(name="input", position=0)
_OTHER = Operand(name="other", position=1)
_TENSORS = Operand(name="tensors", position=0, is_list=True)
# The image of a warp; its second input holds coordinates, which are not quantized.
_IMAGE = (Operand(name="x", position=0),)


def _torch(*names: str) -> tuple[str, ...]:
    return tuple(f"torch.{name}" for name in names)


def _functional(*names: str) -> tuple[str, ...]:
    return tuple(_F + name for name in names)


def _nn(*names: str) -> tuple[str, ...]:
    return tuple(f"torch.nn.{name}" for name in names)


def _amct(*names: str) -> tuple[str, ...]:
    return tuple(_AMCT + name for name in names)


def _arithmetic(
    name: str,
    onnx_type: str,
    operators: tuple[str, ...],
    aliases: tuple[str, ...],
    listed_as: str = "",
    operand: Operand = _OTHER,
) -> OpDesc:
    """Returns +, -, *, / or a power with its operators, torch functions, methods and in-place forms."""
    in_place = tuple(f"{alias}_" for alias in aliases)
    return OpDesc(
        name=name,
        role=Role.ELEMENTWISE,
        functions=tuple(f"operator.{one}" for one in operators) + _torch(*aliases),
        methods=aliases + in_place,
        listed_as=listed_as,
        onnx_types=(onnx_type,),
        operands=(_INPUT, operand),
    )


def _activation(
    name: str,
    modules: tuple[str, ...],
    functions: tuple[str, ...] = (),
    methods: tuple[str, ...] = (),
    onnx_types: tuple[str, ...] = (),
) -> OpDesc:
    return OpDesc(
        name=name, role=Role.ACTIVATION, modules=modules, functions=functions, methods=methods, onnx_types=onnx_types
    )


def _fused(name: str, module: str, onnx_type: str, functions: tuple[str, ...], methods: tuple[str, ...] = ()) -> OpDesc:
    return OpDesc(
        name=name,
        role=Role.FUSED_ACTIVATION,
        modules=_nn(module),
        functions=functions,
        methods=methods,
        onnx_types=(onnx_type,),
    )


def _windowed(
    name: str,
    role: Role,
    module: str,
    onnx_types: tuple[str, ...],
    functions: tuple[str, ...] = ("{}",),
    torch_functions: tuple[str, ...] = (),
) -> tuple[OpDesc, ...]:
    """Returns the 1-D and the 2-D form of a convolution or pooling; ``{}`` stands for that name in function names."""
    return tuple(
        OpDesc(
            name=f"{name}{axes}d",
            role=role,
            modules=_nn(f"{module}{axes}d"),
            onnx_types=onnx_types,
            functions=(
                *_functional(*(one.format(f"{name}{axes}d") for one in functions)),
                *_torch(*(one.format(f"{name}{axes}d") for one in torch_functions)),
            ),
            image_axes=axes,
        )
        for axes in (2, 1)
    )


_WITH_INDICES = ("{}", "{}_with_indices")

_WEIGHTED = (
    *_windowed("conv", Role.CONV, "Conv", ("Conv",)),
    *_windowed("conv_transpose", Role.CONV_TRANSPOSE, "ConvTranspose", ("ConvTranspose",)),
    OpDesc(
        name="linear",
        role=Role.LINEAR,
        modules=_nn("Linear"),
        onnx_types=("Gemm", "MatMul"),
        functions=_functional("linear"),
    ),
)

_CUBE = (
    *_windowed("max_pool", Role.MAX_POOL, "MaxPool", ("MaxPool", "GlobalMaxPool"), _WITH_INDICES, ("{}",)),
    *_windowed("avg_pool", Role.AVG_POOL, "AvgPool", ("AveragePool", "GlobalAveragePool")),
    *_windowed("adaptive_max_pool", Role.MAX_POOL, "AdaptiveMaxPool", ("MaxPool", "GlobalMaxPool"), _WITH_INDICES),
    *_windowed("adaptive_avg_pool", Role.AVG_POOL, "AdaptiveAvgPool", ("AveragePool", "GlobalAveragePool")),
    OpDesc(
        name="matmul",
        role=Role.MATMUL,
        functions=("operator.matmul", "operator.imatmul", *_torch("matmul")),
        methods=("matmul",),
        listed_as="MatMul",
        onnx_types=("MatMul",),
        operands=(_INPUT, _OTHER),
    ),
    OpDesc(
        name="bmm",
        role=Role.MATMUL,
        functions=_torch("bmm"),
        methods=("bmm",),
        listed_as="MatMul",
        onnx_types=("MatMul",),
        operands=(_INPUT, Operand(name="mat2", position=1)),
    ),
)

_ELEMENTWISE = (
    _arithmetic("add", "Add", ("add", "iadd"), ("add",), "EltwiseAdd"),
    _arithmetic("sub", "Sub", ("sub", "isub"), ("sub", "subtract"), "EltwiseSub"),
    _arithmetic("mul", "Mul", ("mul", "imul"), ("mul", "multiply"), "EltwiseMul"),
    _arithmetic("div", "Div", ("truediv", "itruediv"), ("div", "divide", "true_divide"), "EltwiseDiv"),
    _arithmetic("pow", "Pow", ("pow", "ipow"), ("pow",), operand=Operand(name="exponent", position=1)),
    OpDesc(
        name="abs",
        role=Role.ELEMENTWISE,
        functions=("operator.abs", *_torch("abs", "absolute", "abs_")),
        methods=("abs", "absolute", "abs_", "absolute_"),
        onnx_types=("Abs",),
    ),
    OpDesc(
        name="clamp",
        role=Role.ELEMENTWISE,
        functions=_torch("clamp", "clip", "clamp_", "clip_"),
        methods=("clamp", "clip", "clamp_", "clip_"),
        onnx_types=("Clip",),
    ),
)

_REDUCTIONS = (
    OpDesc(name="sum", role=Role.REDUCTION, functions=_torch("sum"), methods=("sum",), onnx_types=("ReduceSum",)),
    OpDesc(name="mean", role=Role.REDUCTION, functions=_torch("mean"), methods=("mean",), onnx_types=("ReduceMean",)),
    OpDesc(
        name="max",
        role=Role.REDUCTION,
        functions=_torch("max"),
        methods=("max",),
        operands=(_INPUT, _OTHER),
        listed_as="Max",
        onnx_types=("ReduceMax", "Max"),
    ),
    OpDesc(
        name="min",
        role=Role.REDUCTION,
        functions=_torch("min"),
        methods=("min",),
        operands=(_INPUT, _OTHER),
        listed_as="Min",
        onnx_types=("ReduceMin", "Min"),
    ),
)

_MOVEMENT = (
    OpDesc(
        name="permute", role=Role.MOVEMENT, functions=_torch("permute"), methods=("permute",), onnx_types=("Transpose",)
    ),
    OpDesc(
        name="transpose",
        role=Role.MOVEMENT,
        functions=_torch("transpose", "swapaxes", "swapdims"),
        methods=("transpose", "swapaxes", "swapdims", "transpose_", "swapaxes_", "swapdims_"),
        onnx_types=("Transpose",),
    ),
    OpDesc(
        name="cat",
        role=Role.MOVEMENT,
        functions=_torch("cat", "concat", "concatenate"),
        operands=(_TENSORS,),
        listed_as="Cat",
        onnx_types=("Concat",),
    ),
    OpDesc(name="stack", role=Role.MOVEMENT, functions=_torch("stack"), operands=(_TENSORS,), onnx_types=("Concat",)),
    OpDesc(
        name="split",
        role=Role.MOVEMENT,
        functions=_torch("split"),
        methods=("split",),
        listed_as="Split",
        onnx_types=("Split",),
        operands=(Operand(name="tensor", position=0),),
    ),
    OpDesc(
        name="resize",
        role=Role.MOVEMENT,
        modules=_nn("Upsample"),
        functions=_functional("interpolate", "upsample"),
        onnx_types=("Resize",),
    ),
    OpDesc(
        name="space_to_depth",
        role=Role.MOVEMENT,
        modules=_amct("SpaceToDepth"),
        module_operands=_IMAGE,
        onnx_types=("SpaceToDepth",),
    ),
    OpDesc(
        name="depth_to_space",
        role=Role.MOVEMENT,
        modules=_amct("DepthToSpace"),
        module_operands=_IMAGE,
        onnx_types=("DepthToSpace",),
    ),
    OpDesc(name="warp", role=Role.MOVEMENT, modules=_amct("Warp"), module_operands=_IMAGE),
    OpDesc(name="global_warp", role=Role.MOVEMENT, modules=_amct("GlobalWarp"), module_operands=_IMAGE),
)

_SHAPE = (
    OpDesc(
        name="flatten",
        role=Role.SHAPE,
        functions=_torch("flatten"),
        methods=("flatten",),
        onnx_types=("Flatten", "Reshape"),
    ),
    OpDesc(
        name="squeeze",
        role=Role.SHAPE,
        functions=_torch("squeeze"),
        methods=("squeeze", "squeeze_"),
        onnx_types=("Squeeze",),
    ),
    OpDesc(
        name="unsqueeze",
        role=Role.SHAPE,
        functions=_torch("unsqueeze"),
        methods=("unsqueeze", "unsqueeze_"),
        onnx_types=("Unsqueeze",),
    ),
    OpDesc(name="reshape", role=Role.SHAPE, functions=_torch("reshape"), methods=("reshape",), onnx_types=("Reshape",)),
    OpDesc(name="view", role=Role.SHAPE, methods=("view",), onnx_types=("Reshape",)),
)

_FUSED_ACTIVATIONS = (
    _fused("relu", "ReLU", "Relu", (*_functional("relu", "relu_"), *_torch("relu", "relu_")), ("relu", "relu_")),
    _fused("relu6", "ReLU6", "Clip", _functional("relu6")),
    _fused(
        "sigmoid",
        "Sigmoid",
        "Sigmoid",
        (*_functional("sigmoid"), *_torch("sigmoid", "sigmoid_")),
        ("sigmoid", "sigmoid_"),
    ),
    _fused("tanh", "Tanh", "Tanh", (*_functional("tanh"), *_torch("tanh", "tanh_")), ("tanh", "tanh_")),
    _fused("leaky_relu", "LeakyReLU", "LeakyRelu", _functional("leaky_relu", "leaky_relu_")),
    _fused("prelu", "PReLU", "PRelu", (*_functional("prelu"), *_torch("prelu")), ("prelu",)),
)

_ACTIVATIONS = (
    _activation("gelu", (*_nn("GELU"), *_amct("GELU")), _functional("gelu")),
    _activation("softmax", _nn("Softmax"), (*_functional("softmax"), *_torch("softmax")), ("softmax",), ("Softmax",)),
    _activation("softmax2d", _nn("Softmax2d")),
    _activation(
        "log_softmax",
        _nn("LogSoftmax"),
        (*_functional("log_softmax"), *_torch("log_softmax")),
        ("log_softmax",),
        ("LogSoftmax",),
    ),
    _activation("elu", _nn("ELU"), _functional("elu", "elu_"), onnx_types=("Elu",)),
    _activation("log_sigmoid", _nn("LogSigmoid"), _functional("logsigmoid")),
    _activation("softmin", _nn("Softmin"), _functional("softmin")),
    _activation("tanhshrink", _nn("Tanhshrink"), _functional("tanhshrink")),
    _activation("glu", _nn("GLU"), _functional("glu")),
    _activation("hardswish", _nn("Hardswish"), _functional("hardswish"), onnx_types=("HardSwish",)),
    _activation("silu", _nn("SiLU"), _functional("silu")),
    _activation("mish", _nn("Mish"), _functional("mish")),
    _activation("hardtanh", _nn("Hardtanh"), _functional("hardtanh", "hardtanh_"), onnx_types=("Clip",)),
    _activation("softsign", _nn("Softsign"), _functional("softsign"), onnx_types=("Softsign",)),
    _activation("hardsigmoid", _nn("Hardsigmoid"), _functional("hardsigmoid"), onnx_types=("HardSigmoid",)),
)

_NORMS = (
    OpDesc(name="layer_norm", role=Role.NORM, modules=(*_nn("LayerNorm"), *_amct("LayerNorm"))),
    OpDesc(
        name="group_norm",
        role=Role.NORM,
        modules=_nn("GroupNorm"),
        functions=_functional("group_norm"),
        onnx_types=("InstanceNormalization",),
    ),
    OpDesc(
        name="instance_norm",
        role=Role.NORM,
        modules=_nn("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"),
        functions=_functional("instance_norm"),
        onnx_types=("InstanceNormalization",),
    ),
    OpDesc(
        name="rms_norm",
        role=Role.NORM,
        modules=_nn("RMSNorm"),
        functions=(*_functional("rms_norm"), *_torch("rms_norm")),
        onnx_types=("ReduceMean",),
    ),
    OpDesc(
        name="batch_norm",
        role=Role.BATCH_NORM,
        modules=_nn("BatchNorm2d", "SyncBatchNorm"),
        functions=_functional("batch_norm"),
        onnx_types=("BatchNormalization",),
    ),
    OpDesc(
        name="batch_norm1d",
        role=Role.BATCH_NORM,
        modules=_nn("BatchNorm1d"),
        onnx_types=("BatchNormalization",),
    ),
)

TABLE: tuple[OpDesc, ...] = (
    *_WEIGHTED,
    *_CUBE,
    *_ELEMENTWISE,
    *_REDUCTIONS,
    *_MOVEMENT,
    *_SHAPE,
    *_FUSED_ACTIVATIONS,
    *_ACTIVATIONS,
    *_NORMS,
)

# Operations whose result is, or may be, a tuple of tensors.
TUPLE_RESULTS = frozenset({"split", "max", "min"}) | {desc.name for desc in TABLE if desc.role is Role.MAX_POOL}

# Poolings whose window follows from the size of the result; a result of 1 x 1 is exported as ``Global...``.
ADAPTIVE = frozenset(desc.name for desc in TABLE if desc.name.startswith("adaptive"))

# Operations that may reduce an axis only with keepdim=True: HiSilicon's AMCT manual has this restriction for max.
KEEPDIM_ONLY = frozenset({"max"})
