from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotwheels.amct_pytorch.backends.fx.backend import FxBackend
from hotwheels.amct_pytorch.nn.in_projection import InProjection
from hotwheels.amct_pytorch.ops.registry import Registry
from tests.support.attention_nets import (
    BATCH,
    HEADS,
    KEYS,
    QUERIES,
    RECURRENT,
    WIDTH,
    Causal,
    Optional,
    Pair,
    Stack,
    Vit,
    assert_same,
    randomize,
    sequences,
    traced,
)
from tests.support.fixtures import one_thread, seeded

__all__ = ["one_thread", "seeded"]


class Attend(nn.Module):
    """Attention with layers around it, whose names must be those of a stock trace."""

    def __init__(self, settings: Mapping[str, Any], call: Mapping[str, Any]) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, **settings)
        self.attn_q_proj = nn.Linear(WIDTH, WIDTH)  # the name which the projection would like to have
        self._call = dict(call)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, padding: Tensor | None = None
    ) -> Any:
        query = self.attn_q_proj(query) @ torch.ones(WIDTH, WIDTH) * 0.1
        return self.attn(query, key, value, attn_mask=mask, key_padding_mask=padding, **self._call)


class AttendByFunction(Attend):
    """The same attention as a call of its function, as CLIP writes it."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, padding: Tensor | None = None
    ) -> Any:
        query = self.attn_q_proj(query) @ torch.ones(WIDTH, WIDTH) * 0.1
        own = self.attn
        parts = {name: getattr(own, name) for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight")}
        return F.multi_head_attention_forward(
            query, key, value, query.shape[-1], HEADS, own.in_proj_weight, own.in_proj_bias, None, None, False,
            own.dropout, own.out_proj.weight, own.out_proj.bias, self.training, padding, attn_mask=mask,
            use_separate_proj_weight=own.in_proj_weight is None, **parts, **self._call,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Masks:
    """Which masks a call has: ``b`` bool, ``f`` float, ``h`` bool and one for each head."""

    mask: str
    padding: str

    def make(self) -> tuple[Tensor | None, Tensor | None]:
        shape = (BATCH * HEADS, QUERIES, KEYS) if self.mask == "h" else (QUERIES, KEYS)
        blocked = torch.rand(shape) > 0.6
        blocked[..., 0] = False  # a query that sees nothing has no result
        padding = torch.zeros(BATCH, KEYS, dtype=torch.bool)
        padding[1, 3:] = True
        masks = {"": None, "b": blocked, "h": blocked, "f": torch.randn(shape)}
        return masks[self.mask], {"": None, "b": padding, "f": torch.randn(BATCH, KEYS)}[self.padding]


_KINDS = (("", ""), ("b", ""), ("f", ""), ("h", ""), ("", "b"), ("", "f"), ("b", "b"), ("h", "b"), ("f", "f"))
MASKS = [Masks(*kinds) for kinds in _KINDS]


def test_nodes_of_attention_come_from_the_line_of_its_call() -> None:
    graph = traced(Attend({}, {})).graph
    lines = {node.name: node.stack_trace for node in graph.nodes if node.name.startswith("attn_")}
    call = "return self.attn(query, key, value, attn_mask=mask, key_padding_mask=padding, **self._call)"
    assert {"attn_q_proj_1", "attn_out_proj", "attn_matmul"} <= lines.keys()
    assert all(line.endswith(call) for name, line in lines.items() if name != "attn_q_proj")


@pytest.mark.parametrize("masks", MASKS, ids=lambda one: f"{one.mask}-{one.padding}")
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("is_cross", [True, False])
def test_attention_equals_torch(masks: Masks, batch_first: bool, need_weights: bool, is_cross: bool) -> None:
    """Each with and without widths of their own for keys and values, bias, and averaged weights."""
    for kdim, average in itertools.product((None, 6), (True, False)):
        vdim = None if kdim is None else 7
        settings = {"batch_first": batch_first, "kdim": kdim, "vdim": vdim, "bias": average}
        call = {"need_weights": need_weights, "average_attn_weights": average}
        model = Attend(settings, call).eval()
        randomize(model)
        inputs = [torch.randn(BATCH, n, w) for n, w in ((QUERIES, WIDTH), (KEYS, kdim or WIDTH), (KEYS, vdim or WIDTH))]
        inputs = [x if batch_first else x.transpose(0, 1) for x in inputs]
        if not is_cross and kdim is None:
            inputs[0] = inputs[2] = inputs[1]
        mask, padding = masks.make()
        if mask is not None and not is_cross and kdim is None:
            mask = torch.cat((mask, mask[..., :1, :]), dim=-2)
        with torch.no_grad():
            expected = model(*inputs, mask, padding)
            assert_same(traced(model)(*inputs, mask, padding), expected)
            if not batch_first:
                function = AttendByFunction(settings, call).eval()
                function.load_state_dict(model.state_dict())
                assert_same(traced(function)(*inputs, mask, padding), expected)


class MaskedStack(Stack):
    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(QUERIES)
        return self.fc(self.encoder(x, mask, padding))


@pytest.mark.parametrize("activation", ["relu", "gelu", nn.SiLU()], ids=str)
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_encoder_equals_torch(activation: Any, norm_first: bool, batch_first: bool) -> None:
    model = Stack(activation=activation, norm_first=norm_first, batch_first=batch_first).eval()
    x = torch.randn(BATCH, QUERIES, WIDTH)
    with torch.no_grad():
        assert_same(traced(model)(x), model(x))


def test_encoder_with_masks_equals_torch() -> None:
    model = MaskedStack(batch_first=True).eval()
    padding = torch.zeros(BATCH, QUERIES)
    padding[1, 2:] = float("-inf")
    x = torch.randn(BATCH, QUERIES, WIDTH)
    with torch.no_grad():
        assert_same(traced(model)(x, padding), model(x, padding))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_equals_torch(norm_first: bool) -> None:
    model = Pair(norm_first).eval()
    x = torch.randn(BATCH, QUERIES, WIDTH)
    with torch.no_grad():
        assert_same(traced(model)(x), model(x))


class Function(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = settings

    def forward(self, q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, k, mask, **self._settings) + 1


@pytest.mark.parametrize("settings", [{}, {"scale": 0.3}, {"is_causal": True}], ids=str)
def test_sdpa_equals_torch(settings: dict[str, Any]) -> None:
    model = Function(**settings)
    q, k = torch.randn(2, HEADS, QUERIES, 6), torch.randn(2, HEADS, KEYS, 6)
    assert_same(traced(model)(q, k), model(q, k))
    assert "matmul" in " ".join(node.name for node in FxBackend(model, Registry()).graph().quantizable)


@pytest.mark.parametrize(
    "mask",
    [torch.rand(QUERIES, KEYS) > 0.4, torch.randn(2, 1, QUERIES, KEYS), torch.randn(HEADS, QUERIES, KEYS)],
    ids=["b", "f", "of heads"],
)
def test_masked_sdpa_equals_torch(mask: Tensor) -> None:
    if mask.dtype == torch.bool:
        mask[:, 0] = True  # True is seen here
    q, k = torch.randn(2, HEADS, QUERIES, 6), torch.randn(2, HEADS, KEYS, 6)
    assert_same(traced(Function())(q, k, mask), Function()(q, k, mask))


def test_grouped_queries_stay_one_float_node() -> None:
    graph = FxBackend(Function(enable_gqa=True), Registry()).graph()
    reasons = {skip.name: skip.reason for skip in graph.skips}
    assert "enable_gqa" in reasons["scaled_dot_product_attention"]


class Names(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS)
        self.attn_matmul = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = (x @ x.transpose(0, 1)).softmax(-1)
        x = self.attn(x, x, x)[0] * 0.5
        x = F.scaled_dot_product_attention(x, x, x).reshape(x.size(0), -1, WIDTH)
        return self.attn_matmul(x) @ y.sum() * 2


def test_no_other_name_changes() -> None:
    class Stock(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return m.__module__.startswith("torch.nn")

    stock = [node.name for node in Stock().trace(Names()).nodes]
    replaced = {"attn", "getitem", "scaled_dot_product_attention"}
    ours = [node.name for node in traced(Names()).graph.nodes]
    own = tuple(f"{name}_" for name in replaced)
    assert [name for name in ours if not name.startswith(own) or name in stock] == [
        name for name in stock if name not in replaced
    ]


def test_softmax_with_an_optional_mask_is_quantized() -> None:
    graph = FxBackend(Optional(), Registry()).graph()
    names = {node.name for node in graph.quantizable}
    assert {"attn_softmax", "scaled_dot_product_attention_softmax"} <= names


def test_softmax_under_a_mask_is_float_with_a_reason() -> None:
    graph = FxBackend(Causal(), Registry()).graph()
    names = ["attn_masked_softmax", "scaled_dot_product_attention_masked_softmax"]
    assert [skip.name for skip in graph.skips] == names
    assert all("-inf" in skip.reason for skip in graph.skips)


def test_optional_masks_work_when_given() -> None:
    model, x = Optional(), sequences()
    mask = torch.ones(QUERIES, QUERIES, dtype=torch.bool).triu(1)
    assert_same(traced(model)(x, mask, True), model(x, mask, True))


def test_attention_drops_in_training_only() -> None:
    model = Causal()
    graph_module = traced(model)
    x = sequences()
    assert not torch.equal(graph_module(x)[0], graph_module(x)[0])
    assert_same(graph_module.eval()(x), model.eval()(x))


def test_attention_function_is_layers_that_drop_as_its_flag_says() -> None:
    model = AttendByFunction({"dropout": 0.5}, {})
    graph_module = traced(model)
    x = torch.randn(KEYS, BATCH, WIDTH)
    assert not torch.equal(graph_module(x, x, x)[0], graph_module(x, x, x)[0])
    assert_same(graph_module.eval()(x, x, x), model.eval()(x, x, x))
    types = Counter(node.op.name for node in FxBackend(model, Registry()).graph().quantizable if node.op is not None)
    assert (types["linear"], types["matmul"]) == (1 + 3 + 1, 1 + 2)


@pytest.mark.parametrize("extra", ["bias_k", "static_v", "add_zero_attn"])
def test_attention_function_without_a_formula_is_float_with_a_reason(extra: str) -> None:
    class Extra(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.MultiheadAttention(WIDTH, HEADS, add_bias_kv=True)

        def forward(self, x: Tensor) -> Tensor:
            own = self.own
            given = {"bias_k": None, "bias_v": None, "add_zero_attn": False}
            given[extra] = True if extra == "add_zero_attn" else own.bias_k
            return F.multi_head_attention_forward(
                x, x, x, WIDTH, HEADS, own.in_proj_weight, own.in_proj_bias, dropout_p=0.0,
                out_proj_weight=own.out_proj.weight, out_proj_bias=own.out_proj.bias, **given,
            )[0]  # fmt: skip

    (skip,) = FxBackend(Extra(), Registry()).graph().skips
    assert extra in skip.reason


def test_the_model_is_left_as_it_was() -> None:
    model = Vit()
    names = [name for name, _ in model.named_modules()]
    FxBackend(model, Registry())
    assert [name for name, _ in model.named_modules()] == names
    assert not any(isinstance(module, InProjection) for module in model.modules())


def test_subclass_with_the_same_forward_is_decomposed() -> None:
    class Own(nn.MultiheadAttention):
        pass

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Own(WIDTH, HEADS)

        def forward(self, x: Tensor) -> Tensor:
            return self.attn(x, x, x)[0]

    assert "attn_q_proj" in FxBackend(Net(), Registry()).graph().nodes


def test_one_attention_called_twice_has_one_set_of_projections() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(WIDTH, HEADS)

        def forward(self, x: Tensor) -> Tensor:
            return self.attn(self.attn(x, x, x)[0], x, x)[0]

    model, x = Net(), sequences()
    graph_module = traced(model)
    assert_same(graph_module(x), model(x))
    assert sum(isinstance(module, InProjection) for module in graph_module.modules()) == 3


def test_unbatched_input_is_refused_not_computed_wrongly() -> None:
    for batch_first in (True, False):
        graph_module = traced(Attend({"batch_first": batch_first}, {}))
        x = torch.randn(WIDTH, WIDTH)
        with pytest.raises(RuntimeError):
            graph_module(x, x, x)


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_modules_are_float_with_a_reason(name: str) -> None:
    skips = FxBackend(RECURRENT[name](), Registry()).graph().skips
    assert [(skip.name, skip.reason) for skip in skips] == [
        ("rnn", f"{name} is not an operation that can be quantized; it runs in float as a whole")
    ]


def test_view_behind_attention_with_input_data() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x, is_causal=True).transpose(0, 1).reshape(2, -1)

    x = torch.randn(2, 3, 4)
    traced = FxBackend(Net(), Registry(), (x,)).traced
    torch.testing.assert_close(traced(x), Net()(x))
