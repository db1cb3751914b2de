"""amct.nn modules against their torch counterparts."""

import copy
import dataclasses
import pickle

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from torch import nn

import hotwheels.amct_pytorch.nn as amct_nn
import picovision.nn as pico_nn
from hotwheels.amct_pytorch.errors import ConfigError

ALL_NAMES = (
    "GELU",
    "DepthToSpace",
    "GlobalWarp",
    "LayerNorm",
    "Mlp",
    "MultiheadConvAttention",
    "SpaceToDepth",
    "Warp",
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# --- package surface ---


@pytest.mark.parametrize("name", ALL_NAMES)
def test_picovision_gives_the_same_class(name):
    from picovision import nn as other_form

    assert getattr(pico_nn, name) is getattr(amct_nn, name) is getattr(amct_nn.modules, name)
    assert getattr(other_form, name).__module__.startswith("hotwheels.amct_pytorch.nn.modules")


@dataclasses.dataclass(frozen=True)
class ModuleCase:
    name: str
    make: object
    shapes: tuple
    keys: tuple

    def inputs(self):
        return tuple(torch.rand(shape) * 2 - 1 for shape in self.shapes)


def _convolution_keys(*names):
    return tuple(f"{name}.{kind}" for name in names for kind in ("weight", "bias"))


MODULE_CASES = [
    ModuleCase("gelu", lambda: amct_nn.GELU(), ((2, 3),), ()),
    ModuleCase("layer_norm", lambda: amct_nn.LayerNorm(4), ((2, 4, 3, 5),), ("weight", "bias")),
    ModuleCase("layer_norm_no_bias", lambda: amct_nn.LayerNorm(4, bias=False), ((2, 4, 3, 5),), ("weight",)),
    ModuleCase("layer_norm_plain", lambda: amct_nn.LayerNorm(4, elementwise_affine=False), ((2, 4, 3, 5),), ()),
    ModuleCase("space_to_depth", lambda: amct_nn.SpaceToDepth(2), ((1, 3, 4, 6),), ()),
    ModuleCase("depth_to_space", lambda: amct_nn.DepthToSpace(2), ((1, 12, 2, 3),), ()),
    ModuleCase("global_warp", lambda: amct_nn.GlobalWarp(), ((1, 3, 5, 6), (1, 2, 2, 2)), ()),
    ModuleCase("warp", lambda: amct_nn.Warp((1, 0, 4, 3)), ((1, 3, 5, 6), (1, 2, 2, 2)), ()),
    ModuleCase(
        "attention",
        lambda: amct_nn.MultiheadConvAttention(8, 2),
        ((2, 8, 1, 5), (2, 8, 1, 7), (2, 8, 1, 7)),
        _convolution_keys("q", "k", "v", "out_proj"),
    ),
    ModuleCase("mlp", lambda: amct_nn.Mlp(4, 6), ((2, 4, 3, 3),), _convolution_keys("fc1", "fc2")),
]


@pytest.fixture(params=MODULE_CASES, ids=lambda case: case.name)
def case(request):
    return request.param


def test_state_dict_has_exactly_the_documented_keys(case):
    module = case.make()
    assert tuple(module.state_dict()) == case.keys
    assert not list(module.buffers())


def test_copies_compute_the_same(case):
    module, inputs = case.make(), case.inputs()
    expected = module(*inputs)
    assert torch.equal(copy.deepcopy(module)(*inputs), expected)
    assert torch.equal(pickle.loads(pickle.dumps(module))(*inputs), expected)


def test_fx_traces_through_every_module(case):
    module, inputs = case.make(), case.inputs()
    concrete = {"mask": None} if case.name == "attention" else None
    assert torch.equal(torch.fx.symbolic_trace(module, concrete)(*inputs), module(*inputs))


def test_jit_trace_computes_the_same(case):
    module, inputs = case.make().eval(), case.inputs()
    torch.testing.assert_close(torch.jit.trace(module, inputs)(*inputs), module(*inputs))


def test_only_composites_are_traced_through():
    through = {name for name in ALL_NAMES if getattr(getattr(amct_nn, name), "amct_leaf", True) is False}
    assert through == {"Mlp", "MultiheadConvAttention"}


# --- GELU ---


@pytest.mark.parametrize(
    ("approximate", "torch_name"), [("tanh", "tanh"), ("none", "none"), ("better_approximation", "none")]
)
def test_gelu_equals_torch(approximate, torch_name):
    x = torch.linspace(-6, 6, 101)
    assert torch.equal(amct_nn.GELU(approximate)(x), F.gelu(x, approximate=torch_name))


def test_gelu_is_tanh_unless_told():
    assert amct_nn.GELU().approximate == "tanh"


@pytest.mark.parametrize("approximate", ["erf", "Tanh", None])
def test_gelu_refuses_an_unknown_formula(approximate):
    with pytest.raises(ConfigError, match="'tanh', 'none', 'better_approximation', got"):
        amct_nn.GELU(approximate)


# --- LayerNorm ---


def _randomized(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_layer_norm_of_images_equals_torch_on_permuted_images(layout):
    reference = _randomized(nn.LayerNorm(6, eps=1e-3))
    ours = amct_nn.LayerNorm(6, eps=1e-3)
    ours.load_state_dict(reference.state_dict(), strict=True)
    x = torch.rand(2, 6, 4, 5).contiguous(memory_format=layout)
    expected = reference(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-6)
    assert ours(x).is_contiguous() == x.is_contiguous()


def test_layer_norm_of_sequences_is_bit_equal_to_torch():
    reference = _randomized(nn.LayerNorm(6))
    ours = amct_nn.LayerNorm((6,), axis=-1)
    ours.load_state_dict(reference.state_dict(), strict=True)
    x = torch.rand(2, 5, 6)
    assert torch.equal(ours(x), reference(x))


def test_positive_axis_counts_from_the_front():
    x = torch.rand(2, 6, 4, 5)
    assert torch.equal(amct_nn.LayerNorm(6, axis=1)(x), amct_nn.LayerNorm(6)(x))


def test_layer_norm_loads_through_an_overridden_load_from_state_dict():
    class Renaming(amct_nn.LayerNorm):
        def _load_from_state_dict(self, state_dict, prefix, *args):
            state_dict[prefix + "weight"] = state_dict.pop(prefix + "gamma")
            super()._load_from_state_dict(state_dict, prefix, *args)

    module = Renaming(3)
    module.load_state_dict({"gamma": torch.full((3,), 2.0), "bias": torch.full((3,), 5.0)}, strict=True)
    assert module.weight.tolist() == [2.0] * 3
    assert module.bias.tolist() == [5.0] * 3


@pytest.mark.parametrize("bias", [None, False])
def test_bias_is_absent_only_for_none_and_false(bias):
    module = amct_nn.LayerNorm(3, bias=bias)
    assert module.bias is None
    assert list(module.state_dict()) == ["weight"]


def test_a_given_bias_is_copied_not_shared():
    given = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    module = amct_nn.LayerNorm(3, bias=given)
    assert module.bias.tolist() == [1.0, 2.0, 3.0]
    assert module.bias is not given
    assert module.bias.data_ptr() != given.data_ptr()


def test_a_given_bias_without_affine_is_absent():
    assert amct_nn.LayerNorm(3, elementwise_affine=False, bias=nn.Parameter(torch.ones(3))).bias is None


def test_wrong_layer_norm_shapes_are_refused():
    with pytest.raises(ConfigError, match=r"hold one int, got \(3, 4\)"):
        amct_nn.LayerNorm((3, 4))
    with pytest.raises(ConfigError, match=r"shape \(3,\), got \(4,\)"):
        amct_nn.LayerNorm(3, bias=torch.ones(4))


def test_layer_norm_makes_parameters_where_told():
    module = amct_nn.LayerNorm(3, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.float64)}


# --- SpaceToDepth, DepthToSpace ---


def _onnx_reference(op_type, x, **attributes):
    node = onnx.helper.make_node(op_type, ["x"], ["y"], **attributes)
    return torch.from_numpy(ReferenceEvaluator(node).run(None, {"x": x.numpy()})[0])


@pytest.mark.parametrize("block", [1, 2, 3])
def test_rearrangements_equal_onnx(block):
    image = torch.arange(2.0 * 3 * 6 * 12).reshape(2, 3, 6, 12)
    deep = torch.arange(2.0 * 18 * 2 * 3 * 2).reshape(2, 36, 2, 3)
    assert torch.equal(amct_nn.SpaceToDepth(block)(image), _onnx_reference("SpaceToDepth", image, blocksize=block))
    expected = _onnx_reference("DepthToSpace", deep, blocksize=block, mode="DCR")
    assert torch.equal(amct_nn.DepthToSpace(block)(deep), expected)


def test_depth_to_space_undoes_space_to_depth():
    x = torch.rand(2, 3, 4, 6)
    deep = amct_nn.SpaceToDepth(2)(x)
    assert torch.equal(amct_nn.DepthToSpace(2)(deep), x)
    assert not torch.equal(deep, F.pixel_unshuffle(x, 2))


def test_rearrangements_refuse_what_does_not_divide():
    with pytest.raises(ValueError, match="height 3 and width 4 must be multiples of block_size 2"):
        amct_nn.SpaceToDepth(2)(torch.rand(1, 1, 3, 4))
    with pytest.raises(ValueError, match="6 channels must be a multiple of block_size 2 squared"):
        amct_nn.DepthToSpace(2)(torch.rand(1, 6, 2, 2))
    with pytest.raises(ValueError, match=r"4-dimensional \(N, C, H, W\), got shape \(4, 2, 2\)"):
        amct_nn.DepthToSpace(2)(torch.rand(4, 2, 2))


@pytest.mark.parametrize("block", [0, -2, 2.0, True])
def test_rearrangements_refuse_a_block_size_that_is_none(block):
    with pytest.raises(ConfigError, match="block_size of SpaceToDepth must be a positive int"):
        amct_nn.SpaceToDepth(block)
    with pytest.raises(ConfigError, match="block_size of DepthToSpace must be a positive int"):
        amct_nn.DepthToSpace(block)


# --- Warp, GlobalWarp ---


def _pixel_grid(*pixels, width, height):
    """Returns a (1, 1, len(pixels), 2) grid at pixel centres (x, y) of an image of this size."""
    points = [(2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1) for x, y in pixels]
    return torch.tensor(points, dtype=torch.float32).reshape(1, 1, -1, 2)


def test_global_warp_takes_the_nearest_pixel_and_the_border_outside():
    image = torch.arange(20.0).reshape(1, 1, 4, 5)
    grid = _pixel_grid((0, 0), (4, 3), (1.4, 2.3), (-7, 1), (9, 9), width=5, height=4)
    assert amct_nn.GlobalWarp()(image, grid).flatten().tolist() == [0, 19, 11, 5, 19]


def test_warp_samples_as_if_the_image_were_cut_to_its_region():
    image = torch.arange(20.0).reshape(1, 1, 4, 5)
    grid = _pixel_grid((0, 0), (2, 1), (-5, 0), (9, 9), width=3, height=2)
    # The region has columns 1 to 3 and rows 2 to 3; its corners are 11, 13, 16, 18.
    assert amct_nn.Warp((1, 2, 4, 4))(image, grid).flatten().tolist() == [11, 18, 11, 18]


def test_warp_without_region_is_global():
    image, grid = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 3, 2) * 3 - 1.5
    expected = F.grid_sample(image, grid, "nearest", "border", align_corners=True)
    assert torch.equal(amct_nn.Warp()(image, grid), expected)
    assert torch.equal(amct_nn.GlobalWarp()(image, grid), expected)


@pytest.mark.parametrize("roi", [(0, 0, 4), (2, 0, 2, 4), (-1, 0, 2, 2), (0.0, 0, 2, 2)])
def test_warp_refuses_an_impossible_region(roi):
    with pytest.raises(ConfigError, match="roi of Warp must"):
        amct_nn.Warp(roi)


def test_warp_refuses_a_region_beyond_the_image():
    with pytest.raises(ValueError, match="reaches beyond the input's width 5 or height 4"):
        amct_nn.Warp((0, 0, 6, 4))(torch.rand(1, 1, 4, 5), torch.zeros(1, 1, 1, 2))


# --- MultiheadConvAttention ---


def _torch_attention_with_weights_of(ours):
    reference = nn.MultiheadAttention(ours.embed_dim, ours.n_heads, batch_first=True)
    projections = (ours.q, ours.k, ours.v)
    reference.load_state_dict(
        {
            "in_proj_weight": torch.cat([one.weight.flatten(1) for one in projections]),
            "in_proj_bias": torch.cat([one.bias for one in projections]),
            "out_proj.weight": ours.out_proj.weight.flatten(1),
            "out_proj.bias": ours.out_proj.bias,
        }
    )
    return reference


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_torch(masked):
    ours = amct_nn.MultiheadConvAttention(8, 2)
    reference = _torch_attention_with_weights_of(ours)
    q, k, v = torch.rand(2, 8, 1, 5), torch.rand(2, 8, 1, 7), torch.rand(2, 8, 1, 7)
    hidden = torch.rand(5, 7) > 0.6  # torch's layout (queries, keys); ours is (keys, queries)
    hidden[:, 0] = False
    tokens = [x.squeeze(2).transpose(1, 2) for x in (q, k, v)]
    expected, _ = reference(*tokens, attn_mask=hidden if masked else None)
    found = ours(q, k, v, hidden.T if masked else None)
    assert found.shape == (2, 8, 1, 5)
    torch.testing.assert_close(found.squeeze(2).transpose(1, 2), expected, rtol=0, atol=1e-6)


def test_attention_has_the_documented_attributes():
    module = amct_nn.MultiheadConvAttention(embed_dim=12, n_heads=3)
    assert module.n_heads == 3
    assert module.scale == 4**-0.5


def test_attention_takes_a_mask_as_a_traced_input():
    module = amct_nn.MultiheadConvAttention(8, 2)
    x, mask = torch.rand(1, 8, 1, 4), torch.tensor([[0, 1, 0, 0]]).T.expand(4, 4)
    assert torch.equal(torch.fx.symbolic_trace(module)(x, x, x, mask), module(x, x, x, mask))


def test_attention_refuses_heads_that_do_not_divide():
    with pytest.raises(ConfigError, match="must divide embed_dim 8, got 3"):
        amct_nn.MultiheadConvAttention(8, 3)


# --- Mlp ---


class _SwinMlp(nn.Module):
    """The block of Swin Transformer V1, on channels-last tokens."""

    def __init__(self, channels, hidden):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


def test_mlp_loads_and_equals_the_linear_block_of_swin():
    reference = _SwinMlp(4, 10)
    ours = amct_nn.Mlp(4, 10, act_layer=nn.GELU)
    state = reference.state_dict()
    ours.load_state_dict(state, strict=True)
    assert state["fc1.weight"].shape == (10, 4)
    x = torch.rand(2, 4, 3, 5)
    expected = reference(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-6)


def test_nested_and_copied_blocks_load_linear_weights_too():
    reference, ours = nn.Sequential(_SwinMlp(4, 10)), nn.Sequential(copy.copy(amct_nn.Mlp(4, 10)))
    ours.load_state_dict(reference.state_dict(), strict=True)
    assert torch.equal(ours[0].fc2.weight.flatten(1), reference[0].fc2.weight)


def test_mlp_defaults():
    module = amct_nn.Mlp(4)
    assert (module.fc1.out_channels, module.fc2.out_channels) == (4, 4)
    assert isinstance(module.act, amct_nn.GELU)
    assert module.drop.p == 0.0
    assert amct_nn.Mlp(4, 6, 5)(torch.rand(1, 4, 2, 2)).shape == (1, 5, 2, 2)


def test_mlp_drops_in_training_only():
    module, x = amct_nn.Mlp(4, drop=0.9), torch.rand(1, 4, 8, 8)
    assert (module(x) == 0).float().mean() > 0.5
    assert torch.equal(module.eval()(x), module(x))
