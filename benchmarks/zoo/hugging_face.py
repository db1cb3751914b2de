"""Vision networks of Hugging Face's transformers, with few layers; parts of SAM and TrOCR among them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from . import libraries  # noqa: F401  before transformers: it declares what torchvision's import needs
from .architecture import Architecture

_VIT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96, "image_size": 64}
_STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
_STAGE_HEADS = {"num_attention_heads": [1, 2, 3, 4]}
_SWIN = {"image_size": 64, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}


def _build(model: str, config: str, settings: dict[str, Any], part: str = "") -> nn.Module:
    import transformers

    whole = getattr(transformers, model)(getattr(transformers, config)(**settings))
    return whole.get_submodule(part) if part else whole


def _depth(**settings: Any) -> nn.Module:
    """DPT with the last convolution negated: untrained, all its depths are negative, and its ReLU makes them 0."""
    model = _build("DPTForDepthEstimation", "DPTConfig", settings)
    last = [one for one in model.modules() if isinstance(one, nn.Conv2d)][-1]
    last.weight.data.neg_()
    return model


def _network(model: str, config: str, pixels: int = 64, part: str = "", **settings: Any) -> Architecture:
    name = model + (f".{part}" if part else "")
    build: Callable[[], nn.Module] = partial(_build, model, config, settings, part)
    return Architecture(name, "transformers", build, pixels)


HUGGING_FACE = (
    _network("ViTForImageClassification", "ViTConfig", **_VIT),
    _network("DeiTForImageClassification", "DeiTConfig", **_VIT),
    _network("BeitForImageClassification", "BeitConfig", **_VIT, use_relative_position_bias=True),
    _network("Dinov2ForImageClassification", "Dinov2Config", patch_size=16, **_VIT),
    _network("ViTMSNModel", "ViTMSNConfig", **_VIT),
    _network("CLIPVisionModel", "CLIPVisionConfig", patch_size=16, **_VIT),
    _network("SiglipVisionModel", "SiglipVisionConfig", patch_size=16, **_VIT),
    _network("PvtForImageClassification", "PvtConfig", image_size=64, **_STAGES, **_STAGE_HEADS),
    _network("PvtV2ForImageClassification", "PvtV2Config", image_size=64, **_STAGES, **_STAGE_HEADS),
    _network("ResNetForImageClassification", "ResNetConfig", embedding_size=16, **_STAGES),
    _network("RegNetForImageClassification", "RegNetConfig", embedding_size=16, groups_width=8, **_STAGES),
    _network("ConvNextForImageClassification", "ConvNextConfig", **_STAGES),
    _network("ConvNextV2ForImageClassification", "ConvNextV2Config", **_STAGES),
    _network("SwinForImageClassification", "SwinConfig", **_SWIN),
    _network("Swinv2ForImageClassification", "Swinv2Config", **_SWIN),
    _network(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        decoder_hidden_size=32,
        **_STAGES,
        **_STAGE_HEADS,
    ),
    _network("MobileNetV1ForImageClassification", "MobileNetV1Config", depth_multiplier=0.25, image_size=64),
    _network("MobileNetV2ForImageClassification", "MobileNetV2Config", depth_multiplier=0.35, image_size=64),
    _network(
        "MobileViTForImageClassification",
        "MobileViTConfig",
        image_size=64,
        hidden_sizes=[24, 32, 40],
        neck_hidden_sizes=[8, 16, 24, 32, 48, 64, 80],
        num_hidden_layers=3,
    ),
    _network(
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        image_size=64,
        width_coefficient=0.5,
        depth_coefficient=0.5,
        hidden_dim=640,
    ),
    _network("PoolFormerForImageClassification", "PoolFormerConfig", **_STAGES),
    _network("LevitForImageClassification", "LevitConfig", 224, depths=[1, 1, 1]),
    _network(
        "CvtForImageClassification",
        "CvtConfig",
        embed_dim=[16, 32, 48],
        num_heads=[1, 2, 3],
        depth=[1, 2, 3],
        drop_path_rate=[0.0] * 3,
    ),
    Architecture(
        "DPTForDepthEstimation",
        "transformers",
        partial(
            _depth,
            **{**_VIT, "num_hidden_layers": 4},
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[16, 16, 24, 24],
            fusion_hidden_size=16,
        ),
    ),
    _network(
        "YolosModel",
        "YolosConfig",
        **{**_VIT, "image_size": (64, 64)},
        num_detection_tokens=5,
        use_mid_position_embeddings=False,
    ),
    _network(
        "SamVisionModel",
        "SamVisionConfig",
        image_size=64,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        output_channels=16,
        window_size=2,
        global_attn_indexes=[1],
        mlp_dim=96,
    ),
    _network(
        "VisionEncoderDecoderModel",
        "VisionEncoderDecoderConfig",
        part="encoder",
        encoder={"model_type": "deit", **_VIT},
        decoder={"model_type": "trocr", "decoder_layers": 1, "d_model": 32, "decoder_attention_heads": 2},
    ),
)
