"""The formulas of attention on Proxies: what the replaced calls compute, in operations that can be quantized."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from ....nn.in_projection import PROJECTIONS, attach_projections
from ...calls.attention_heads import by_head, in_tokens, split_heads
from ...calls.masked_softmax import masked_scores, masked_softmax
from ..read.float_reason import mark_float
from .inline import Inline

Proxy = Any  # a torch.fx.Proxy: it has the operators of a tensor when the program runs, but does not declare them

_MASKS = ("attn_mask", "key_padding_mask", "is_causal")


def multihead_attention(
    place: Inline,
    query: Proxy,
    key: Proxy,
    value: Proxy,
    key_padding_mask: Proxy | None = None,
    need_weights: bool = True,
    attn_mask: Proxy | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,  # only a hint that attn_mask is causal
) -> tuple[Proxy, Proxy | None]:
    """Writes the forward of the attention module at ``place`` and returns its results."""
    module: nn.MultiheadAttention = place.module
    attach_projections(module)
    first, second = query.size(0), query.size(1)
    queries, keys, values = (
        split_heads(place.call(name, x), module.num_heads, module.head_dim, order)
        for name, x, order in zip(PROJECTIONS, (query, key, value), _orders(module.batch_first), strict=True)
    )
    weights = _softmax(queries * module.head_dim**-0.5 @ keys, [attn_mask, key_padding_mask])
    if module.dropout:
        place.attach("attn_dropout", nn.Dropout(module.dropout))
        weights = place.call("attn_dropout", weights)
    attended = in_tokens(weights @ values, module.batch_first).reshape(first, second, module.embed_dim)
    if not need_weights:
        return place.call("out_proj", attended), None
    return place.call("out_proj", attended), weights.mean(1) if average_attn_weights else weights


def _attention_call(
    place: Inline,
    query: Proxy,
    key: Proxy,
    value: Proxy,
    num_heads: int,
    in_proj_weight: Proxy | None,
    in_proj_bias: Proxy | None,
    out_proj_weight: Proxy,
    out_proj_bias: Proxy | None,
    dropout_p: float = 0.0,
    training: Any = True,
    key_padding_mask: Proxy | None = None,
    need_weights: bool = True,
    attn_mask: Proxy | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Proxy | None = None,
    k_proj_weight: Proxy | None = None,
    v_proj_weight: Proxy | None = None,
    average_attn_weights: bool = True,
    **hints: Any,
) -> tuple[Proxy, Proxy | None]:
    own = (q_proj_weight, k_proj_weight, v_proj_weight)
    matrices = own if use_separate_proj_weight else in_proj_weight.chunk(3)  # type: ignore[union-attr]
    biases = None if in_proj_bias is None else in_proj_bias.chunk(3)
    queries, keys, values = (
        split_heads(_projected(x, matrices, biases, at), num_heads, query.size(2) // num_heads, order)
        for at, (x, order) in enumerate(zip((query, key, value), _orders(batch_first=False), strict=True))
    )
    scale = _call(math.pow, queries.size(3), -0.5)
    weights = _softmax(queries * scale @ keys, [attn_mask, key_padding_mask])
    if dropout_p and training is not False:
        weights = place.call(place.attach_function("dropout", nn.Dropout(float(dropout_p))), weights)
    attended = F.linear(in_tokens(weights @ values, batch_first=False).flatten(2), out_proj_weight, out_proj_bias)
    if not need_weights:
        return attended, None
    return attended, weights.mean(1) if average_attn_weights else weights


def _projected(x: Proxy, matrices: Any, biases: Proxy | None, at: int) -> Proxy:
    return F.linear(x, matrices[at], None if biases is None else biases[at])


def _orders(batch_first: bool) -> tuple[tuple[int, ...], ...]:
    """Returns the orders of the axes of queries, keys (transposed) and values for the matrix products."""
    order = by_head(batch_first)
    return order, (order[0], order[1], order[3], order[2]), order


def _scaled_dot_product_attention(
    place: Inline,
    query: Proxy,
    key: Proxy,
    value: Proxy,
    attn_mask: Proxy | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Any = None,
    enable_gqa: bool = False,
) -> Proxy:
    if scale is None:
        scale = _call(math.pow, query.size(-1), -0.5)
    scores = query * scale @ key.transpose(-2, -1)
    weights = _softmax(scores, [attn_mask, None, is_causal], marks_blocked=False)
    if dropout_p:
        # A module that follows train() and eval(), since a deployed network must not drop values.
        weights = place.call(place.attach_function("dropout", nn.Dropout(float(dropout_p))), weights)
    return weights @ value


def _encoder_layer(
    place: Inline,
    src: Proxy,
    src_mask: Proxy | None = None,
    src_key_padding_mask: Proxy | None = None,
    is_causal: bool = False,
) -> Proxy:
    def attend(x: Proxy) -> Proxy:
        return place.call("dropout1", _self_attention(place, x, src_mask, src_key_padding_mask))

    if place.module.norm_first:
        x = src + attend(place.call("norm1", src))
        return x + _feed_forward(place, place.call("norm2", x), "dropout2")
    x = place.call("norm1", src + attend(src))
    return place.call("norm2", x + _feed_forward(place, x, "dropout2"))


def _decoder_layer(
    place: Inline,
    tgt: Proxy,
    memory: Proxy,
    tgt_mask: Proxy | None = None,
    memory_mask: Proxy | None = None,
    tgt_key_padding_mask: Proxy | None = None,
    memory_key_padding_mask: Proxy | None = None,
    tgt_is_causal: bool = False,
    memory_is_causal: bool = False,
) -> Proxy:
    def attend(x: Proxy) -> Proxy:
        return place.call("dropout1", _self_attention(place, x, tgt_mask, tgt_key_padding_mask))

    def look_up(x: Proxy) -> Proxy:
        cross = place.child("multihead_attn")
        found = multihead_attention(cross, x, memory, memory, memory_key_padding_mask, False, memory_mask)
        return place.call("dropout2", found[0])

    if place.module.norm_first:
        x = tgt + attend(place.call("norm1", tgt))
        x = x + look_up(place.call("norm2", x))
        return x + _feed_forward(place, place.call("norm3", x), "dropout3")
    x = place.call("norm1", tgt + attend(tgt))
    x = place.call("norm2", x + look_up(x))
    return place.call("norm3", x + _feed_forward(place, x, "dropout3"))


def _self_attention(place: Inline, x: Proxy, mask: Proxy | None, padding: Proxy | None) -> Proxy:
    return multihead_attention(place.child("self_attn"), x, x, x, padding, False, mask)[0]


def _feed_forward(place: Inline, x: Proxy, last_dropout: str) -> Proxy:
    hidden = place.call("linear1", x)
    activation = place.module.activation
    hidden = place.call("activation", hidden) if isinstance(activation, nn.Module) else activation(hidden)
    return place.call(last_dropout, place.call("linear2", place.call("dropout", hidden)))


def _encoder(
    place: Inline,
    src: Proxy,
    mask: Proxy | None = None,
    src_key_padding_mask: Proxy | None = None,
    is_causal: bool | None = None,
) -> Proxy:
    for index in range(len(place.module.layers)):
        src = _encoder_layer(place.child(f"layers.{index}"), src, mask, src_key_padding_mask)
    return src if place.module.norm is None else place.call("norm", src)


def _decoder(place: Inline, tgt: Proxy, memory: Proxy, *masks: Any, **others: Any) -> Proxy:
    for index in range(len(place.module.layers)):
        tgt = _decoder_layer(place.child(f"layers.{index}"), tgt, memory, *masks, **others)
    return tgt if place.module.norm is None else place.call("norm", tgt)


def _transformer(
    place: Inline,
    src: Proxy,
    tgt: Proxy,
    src_mask: Proxy | None = None,
    tgt_mask: Proxy | None = None,
    memory_mask: Proxy | None = None,
    src_key_padding_mask: Proxy | None = None,
    tgt_key_padding_mask: Proxy | None = None,
    memory_key_padding_mask: Proxy | None = None,
    **hints: Any,
) -> Proxy:
    memory = _encoder(place.child("encoder"), src, src_mask, src_key_padding_mask)
    masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
    return _decoder(place.child("decoder"), tgt, memory, *masks)


def _softmax(scores: Proxy, masks: list[Any], **kwargs: Any) -> Proxy:
    """Returns the softmax over the keys; ``masks`` are arguments of `masked_softmax`."""
    masks = [mask if isinstance(mask, fx.Proxy) else mask or None for mask in masks]
    if all(mask is None for mask in masks):
        return scores.softmax(-1)
    given = {name: mask for name, mask in zip(_MASKS, masks, strict=False) if mask is not None} | kwargs
    if all(mask is None or _is_optional(mask) for mask in masks):
        return _call(masked_scores, scores, **given).softmax(-1)
    weights = _call(masked_softmax, scores, **given)
    mark_float(weights.node, "a mask may put -inf among its scores, which no grid holds; it runs in float")
    return weights


def _is_optional(mask: Any) -> bool:
    """Whether ``mask`` is an optional input of the model, whose default means no mask."""
    return (
        isinstance(mask, fx.Proxy)
        and mask.node.op == "placeholder"
        and bool(mask.node.args)
        and (mask.node.args[0] is None or mask.node.args[0] is False)
    )


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Proxy:
    """Records a call of a function that does not know Proxies."""
    first = next(one for one in args if isinstance(one, fx.Proxy))
    return first.tracer.create_proxy("call_function", function, args, kwargs)


# Classes by identity: a subclass may have blocks of its own.
FORMULAS: dict[type, Callable[..., Any]] = {
    nn.TransformerEncoderLayer: _encoder_layer,
    nn.TransformerDecoderLayer: _decoder_layer,
    nn.TransformerEncoder: _encoder,
    nn.TransformerDecoder: _decoder,
    nn.Transformer: _transformer,
}

FUNCTIONS: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: _scaled_dot_product_attention,
    F.multi_head_attention_forward: _attention_call,
}
