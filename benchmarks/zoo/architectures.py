"""The architectures of the zoo: a small variant of each, built as its library builds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from . import heads
from .architecture import CLASSES, Architecture, of_timm, segmentation, sized, vision
from .detectors import DETECTORS
from .hugging_face import HUGGING_FACE
from .libraries import torchvision
from .onnx_round_trips import ROUND_TRIPS
from .timm_files import TIMM_FILES
from .torchvision_sizes import TORCHVISION_SIZES
from .ultralytics_models import ULTRALYTICS

_FLOAT_DIVISION = "override_layer_types: [{layer_type: [operator.add, operator.truediv], quant_enable: false}]"
_WHY_FLOAT = (
    "Linear attention divides by a sum plus an epsilon far below the step of any grid: the quantized divisor is zero"
    " where the sum is small, and so is the dividend; the quotient is NaN."
)


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
    vision("alexnet", 224),
    vision("vgg11_bn", 224),
    vision("resnet18"),
    vision("resnet50"),
    vision("resnext50_32x4d"),
    vision("squeezenet1_1"),
    vision("densenet121"),
    vision("googlenet", init_weights=False),
    vision("inception_v3", 80, init_weights=False),
    vision("mobilenet_v2"),
    vision("mobilenet_v3_small"),
    vision("mobilenet_v3_large"),
    vision("mnasnet0_5"),
    vision("shufflenet_v2_x0_5"),
    vision("efficientnet_b0"),
    vision("efficientnet_v2_s"),
    vision("regnet_x_400mf"),
    vision("regnet_y_400mf"),
    Architecture("convnext", "torchvision", _conv_next),
    Architecture("vision_transformer", "torchvision", _vision_transformer),
    Architecture("swin", "torchvision", _swin(1)),
    Architecture("swin_v2", "torchvision", _swin(2)),
    Architecture("maxvit", "torchvision", _max_vit),
    # torchvision: segmentation
    segmentation("fcn_resnet50"),
    segmentation("deeplabv3_mobilenet_v3_large"),
    segmentation("lraspp_mobilenet_v3_large"),
    # heads
    _head("unet_mobilenetv2", heads.u_net),
    _head("ssd_resnet10", heads.ssd),
    _head("ssdlite_mobilenetv3", heads.ssd_lite),
    _head("retinanet_resnet10", heads.retina_net),
    _head("fcos_resnet10", heads.fcos),
    _head("yolo_csdarknet", heads.yolo),
    # timm: convolutional
    of_timm("mobilenetv4_conv_small_050"),
    of_timm("ghostnet_050"),
    of_timm("ghostnetv2_100"),
    of_timm("repvgg_a0"),
    of_timm("repghostnet_050"),
    of_timm("repvit_m0_9"),
    of_timm("mobileone_s0"),
    of_timm("hrnet_w18_small"),
    of_timm("res2net50_14w_8s"),
    of_timm("cspresnet50"),
    of_timm("cspdarknet53"),
    of_timm("darknet17"),
    of_timm("dla46x_c"),
    of_timm("dpn48b"),
    of_timm("ese_vovnet19b_slim_dw"),
    of_timm("selecsls42"),
    of_timm("rexnet_100"),
    of_timm("tinynet_e"),
    of_timm("lcnet_050"),
    of_timm("hardcorenas_a"),
    of_timm("fbnetc_100"),
    of_timm("hgnetv2_b0"),
    of_timm("xception41"),
    of_timm("skresnet18"),
    of_timm("resnest14d"),
    of_timm("seresnet18"),
    of_timm("ecaresnet26t"),
    of_timm("gcresnext26ts"),
    of_timm("nfnet_l0"),
    of_timm("convmixer_768_32", 32),
    of_timm("convnext_atto"),
    of_timm("convnextv2_atto"),
    of_timm("inception_next_atto", depths=(1, 1, 2, 1)),
    of_timm("focalnet_tiny_srf"),
    of_timm("poolformer_s12"),
    of_timm("starnet_s050"),
    of_timm("mambaout_femto", depths=(1, 1, 2, 1)),
    of_timm("tresnet_m"),
    # timm: attention and MLP
    sized("vit_tiny_patch16_224", depth=4),
    sized("deit_tiny_patch16_224", depth=4),
    sized("deit_tiny_distilled_patch16_224", depth=4),
    sized("swin_tiny_patch4_window7_224", window_size=4, depths=(2, 2, 2, 1)),
    of_timm("pvt_v2_b0"),
    sized("twins_svt_small", depths=(1, 1, 2, 1)),
    of_timm("mobilevit_xxs"),
    of_timm("mobilevitv2_050"),
    of_timm("fastvit_t8", layers=(1, 1, 2, 1)),
    of_timm("edgenext_xx_small"),
    of_timm("efficientformer_l1", 224),
    dataclasses.replace(of_timm("efficientvit_b0"), definition=_FLOAT_DIVISION, reason=_WHY_FLOAT),
    of_timm("efficientvit_m0", 224),
    of_timm("levit_128s", 224),
    sized("coat_lite_tiny"),
    sized("xcit_nano_12_p16_224", depth=4),
    sized("cait_xxs24_224", depth=4),
    sized("mixer_s32_224"),
    sized("resmlp_12_224"),
    sized("gmlp_ti16_224"),
    sized("coatnet_nano_rw_224"),
    sized("maxxvit_rmlp_nano_rw_256"),
    of_timm("caformer_s18"),
    sized("beit_base_patch16_224", depth=3, embed_dim=192, num_heads=3),
    of_timm("swiftformer_xs"),
    of_timm("shvit_s1", 128),
    of_timm("tiny_vit_5m_224", 224, depths=(1, 1, 2, 1)),
    of_timm("davit_tiny", depths=(1, 1, 2, 1)),
    sized("volo_d1_224"),
    sized("pit_ti_224"),
    sized("convit_tiny", depth=4, local_up_to_layer=2),
    of_timm("mobilenetv4_hybrid_medium"),
    of_timm("nextvit_small"),
    of_timm("sequencer2d_s", layers=(1, 1, 2, 1)),
    sized("eva02_tiny_patch14_224", 70, depth=4),
)

ARCHITECTURES = {
    one.name: one
    for one in (*_ALL, *TIMM_FILES, *ULTRALYTICS, *HUGGING_FACE, *ROUND_TRIPS, *DETECTORS, *TORCHVISION_SIZES)
}
