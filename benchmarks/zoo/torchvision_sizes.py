"""The other sizes of torchvision's classification and segmentation networks, up to some 60 million parameters."""

from __future__ import annotations

from .architecture import segmentation, vision

TORCHVISION_SIZES = (
    *(vision(name) for name in ("squeezenet1_0", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3")),
    *(vision(name) for name in ("shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0")),
    *(vision(f"efficientnet_b{size}") for size in (1, 2, 3, 4)),
    *(vision(f"regnet_{kind}_{size}") for size in ("800mf", "1_6gf", "3_2gf") for kind in "xy"),
    *(vision(name) for name in ("resnet34", "resnet101", "resnet152")),
    *(vision(name) for name in ("densenet161", "densenet169", "densenet201")),
    *(vision(name) for name in ("swin_t", "swin_v2_t", "convnext_tiny", "convnext_small")),
    *(vision(name, 224) for name in ("vit_b_32", "maxvit_t")),
    *(segmentation(name) for name in ("deeplabv3_resnet50",)),
)
