"""The architectures of the zoo: a small variant of each, built as its library builds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from . import heads
from .libraries import timm, torchvision

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One network of the zoo.

    Attributes:
      name: Unique; the library's name of the model if there is one.
      source: The library with the model definition.
      build: Returns the untrained model.
      image_size: Height and width of the inputs.
      definition: Simple configuration (YAML); empty for the defaults.
    """

    name: str
    source: str
    build: Callable[[], nn.Module]
    image_size: int = 64
    definition: str = ""


# Linear attention divides by a sum plus an epsilon far below the step of any grid: quantized, the divisor may be zero.
_FLOAT_DIVISION = "override_layer_types: [{layer_type: [operator.add, operator.truediv], quant_enable: false}]"


def _vision(name: str, image_size: int = 64, **arguments: Any) -> Architecture:
    """A model of torchvision by name."""
    arguments = {"weights": None, "num_classes": CLASSES, **arguments}
    return Architecture(name, "torchvision", partial(torchvision.models.get_model, name, **arguments), image_size)


def _segmentation(name: str, image_size: int = 64) -> Architecture:
    return _vision(name, image_size, num_classes=5, weights_backbone=None)


def _timm(name: str, image_size: int = 64, **arguments: Any) -> Architecture:
    """A model of timm by name."""
    return Architecture(name, "timm", partial(timm.create_model, name, num_classes=CLASSES, **arguments), image_size)


def _sized(name: str, image_size: int = 64, **arguments: Any) -> Architecture:
    """A model of timm whose constructor needs the image size."""
    return _timm(name, image_size, img_size=image_size, **arguments)


def _head(name: str, build: Callable[[], nn.Module], image_size: int = 64) -> Architecture:
    return Architecture(name, "torchvision + timm", build, image_size)


def _conv_next() -> nn.Module:
    block = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([block(24, 48, 1), block(48, 96, 2), block(96, None, 1)], num_classes=CLASSES)


def _swin(version: int) -> Callable[[], nn.Module]:
    module = torchvision.models.swin_transformer
    arguments: dict[str, Any] = {"block": module.SwinTransformerBlockV2, "downsample_layer": module.PatchMergingV2}
    return partial(
        module.SwinTransformer,
        patch_size=[4, 4],
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
        num_classes=CLASSES,
        **(arguments if version == 2 else {}),
    )


def _max_vit() -> nn.Module:
    return torchvision.models.MaxVit(
        input_size=(64, 64),
        stem_channels=16,
        partition_size=4,
        block_channels=[16, 32],
        block_layers=[1, 2],
        head_dim=8,
        stochastic_depth_prob=0.1,
        num_classes=CLASSES,
    )


def _vision_transformer() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=3, num_heads=3, hidden_dim=48, mlp_dim=96, num_classes=CLASSES
    )


_ALL = (
    # torchvision: classification
    _vision("alexnet", 224),
    _vision("vgg11_bn", 224),
    _vision("resnet18"),
    _vision("resnet50"),
    _vision("resnext50_32x4d"),
    _vision("squeezenet1_1"),
    _vision("densenet121"),
    _vision("googlenet", init_weights=False),
    _vision("inception_v3", 80, init_weights=False),
    _vision("mobilenet_v2"),
    _vision("mobilenet_v3_small"),
    _vision("mobilenet_v3_large"),
    _vision("mnasnet0_5"),
    _vision("shufflenet_v2_x0_5"),
    _vision("efficientnet_b0"),
    _vision("efficientnet_v2_s"),
    _vision("regnet_x_400mf"),
    _vision("regnet_y_400mf"),
    Architecture("convnext", "torchvision", _conv_next),
    Architecture("vision_transformer", "torchvision", _vision_transformer),
    Architecture("swin", "torchvision", _swin(1)),
    Architecture("swin_v2", "torchvision", _swin(2)),
    Architecture("maxvit", "torchvision", _max_vit),
    # torchvision: segmentation
    _segmentation("fcn_resnet50"),
    _segmentation("deeplabv3_mobilenet_v3_large"),
    _segmentation("lraspp_mobilenet_v3_large"),
    # heads
    _head("unet_mobilenetv2", heads.u_net),
    _head("ssd_resnet10", heads.ssd),
    _head("ssdlite_mobilenetv3", heads.ssd_lite),
    _head("retinanet_resnet10", heads.retina_net),
    _head("fcos_resnet10", heads.fcos),
    _head("yolo_csdarknet", heads.yolo),
    # timm: convolutional
    _timm("mobilenetv4_conv_small_050"),
    _timm("ghostnet_050"),
    _timm("ghostnetv2_100"),
    _timm("repvgg_a0"),
    _timm("repghostnet_050"),
    _timm("repvit_m0_9"),
    _timm("mobileone_s0"),
    _timm("hrnet_w18_small"),
    _timm("res2net50_14w_8s"),
    _timm("cspresnet50"),
    _timm("cspdarknet53"),
    _timm("darknet17"),
    _timm("dla46x_c"),
    _timm("dpn48b"),
    _timm("ese_vovnet19b_slim_dw"),
    _timm("selecsls42"),
    _timm("rexnet_100"),
    _timm("tinynet_e"),
    _timm("lcnet_050"),
    _timm("hardcorenas_a"),
    _timm("fbnetc_100"),
    _timm("hgnetv2_b0"),
    _timm("xception41"),
    _timm("skresnet18"),
    _timm("resnest14d"),
    _timm("seresnet18"),
    _timm("ecaresnet26t"),
    _timm("gcresnext26ts"),
    _timm("nfnet_l0"),
    _timm("convmixer_768_32", 32),
    _timm("convnext_atto"),
    _timm("convnextv2_atto"),
    _timm("inception_next_atto", depths=(1, 1, 2, 1)),
    _timm("focalnet_tiny_srf"),
    _timm("poolformer_s12"),
    _timm("starnet_s050"),
    _timm("mambaout_femto", depths=(1, 1, 2, 1)),
    _timm("tresnet_m"),
    # timm: attention and MLP
    _sized("vit_tiny_patch16_224", depth=4),
    _sized("deit_tiny_patch16_224", depth=4),
    _sized("deit_tiny_distilled_patch16_224", depth=4),
    _sized("swin_tiny_patch4_window7_224", window_size=4, depths=(2, 2, 2, 1)),
    _timm("pvt_v2_b0"),
    _sized("twins_svt_small", depths=(1, 1, 2, 1)),
    _timm("mobilevit_xxs"),
    _timm("mobilevitv2_050"),
    _timm("fastvit_t8", layers=(1, 1, 2, 1)),
    _timm("edgenext_xx_small"),
    _timm("efficientformer_l1", 224),
    dataclasses.replace(_timm("efficientvit_b0"), definition=_FLOAT_DIVISION),
    _timm("efficientvit_m0", 224),
    _timm("levit_128s", 224),
    _sized("coat_lite_tiny"),
    _sized("xcit_nano_12_p16_224", depth=4),
    _sized("cait_xxs24_224", depth=4),
    _sized("mixer_s32_224"),
    _sized("resmlp_12_224"),
    _sized("gmlp_ti16_224"),
    _sized("coatnet_nano_rw_224"),
    _sized("maxxvit_rmlp_nano_rw_256"),
    _timm("caformer_s18"),
    _sized("beit_base_patch16_224", depth=3, embed_dim=192, num_heads=3),
    _timm("swiftformer_xs"),
    _timm("shvit_s1", 128),
    _timm("tiny_vit_5m_224", 224, depths=(1, 1, 2, 1)),
    _timm("davit_tiny", depths=(1, 1, 2, 1)),
    _sized("volo_d1_224"),
    _sized("pit_ti_224"),
    _sized("convit_tiny", depth=4, local_up_to_layer=2),
    _timm("mobilenetv4_hybrid_medium"),
    _timm("nextvit_small"),
    _timm("sequencer2d_s", layers=(1, 1, 2, 1)),
    _sized("eva02_tiny_patch14_224", 70, depth=4),
)

ARCHITECTURES = {one.name: one for one in _ALL}
