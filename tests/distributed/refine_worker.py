"""One of the processes of test_refine.py: calibrates with, and refines with, its share of the batches."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from hotwheels.amct_pytorch.core.refine import soft_rounding
from hotwheels.amct_pytorch.core.refine.shift import ShiftSum
from tests.support.nets import shake_batch_norms

CLASSES = 4
METHODS = ("compensated_rounding", "learned_rounding", "bias_correction")
MISLED = "misled in the last layer"
SIZES = {"batches of 8": (8, 8, 8, 8), "fewer than 4 pictures": (2,) * 8, MISLED: (8, 8, 8, 8)}


class Net(nn.Module):
    """A convolution with a BatchNorm, a depthwise convolution, a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.head = nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, CLASSES)
        shake_batch_norms(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.norm(self.conv(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


def found_for(case: str, folder: Path, rank: int, processes: int) -> dict[str, Tensor]:
    """Returns the state after the refinement of one of the cases; if misled, a wrong correction is taken back."""
    if case != MISLED:
        return refined(folder, SIZES[case], rank, processes)
    shift = ShiftSum.shift
    with mock.patch.object(ShiftSum, "shift", lambda sums: shift(sums) + float(sums._sums.shape[1] == CLASSES)):
        return refined(folder, SIZES[case], rank, processes, taken_back=("head",))


def refined(
    folder: Path, sizes: tuple[int, ...], rank: int, processes: int, taken_back: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Returns the state after refinement with 4-bit weights and every ``processes``-th batch, from ``rank`` on."""
    torch.manual_seed(0)
    net = Net().eval()
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(size, 3, 10, 10, generator=generator) for size in sizes][rank::processes]
    (folder / "simple.yaml").write_text(
        "common_config:\n"
        f"  activation_quant_params: {{quantizer: UlqFakeQuantize, quantizer_args: {{batch_num: {len(batches)}}}}}\n"
        "  weight_quant_params: {quantizer: SnqWeightFakeQuantize}\n"
    )
    amct.create_quant_config_fx(folder / "config.json", net, folder / "simple.yaml")
    model = amct.create_quant_model_fx(folder / "config.json", net)
    amct.enable_quantization(model, calibration=True)
    with torch.no_grad():
        for batch in batches:
            model(batch)
    result = amct.refine(model, [(batch,) for batch in batches], METHODS, progress=False)
    assert result.taken_back == taken_back
    return {name: value.clone() for name, value in model.state_dict().items()}


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    soft_rounding.STEPS = 30
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    own = folder / str(rank)
    own.mkdir()
    torch.save({case: found_for(case, own, rank, 2) for case in SIZES}, folder / f"found_{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    os.chdir(sys.argv[1])  # logs go there
    main(Path(sys.argv[1]), int(sys.argv[2]))
