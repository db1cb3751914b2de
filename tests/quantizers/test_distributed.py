"""Two processes agree on clip values and calibration statistics (spec 5.1, 5.2)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from hotwheels.amct_pytorch.quantizers import IFMRObserver, LuqMseObserver, distributed

WORKER = """
import json, os, sys
import torch, torch.distributed as dist
from hotwheels.amct_pytorch.quantizers import IFMRObserver, LuqMseObserver, LuqWeightFakeQuantize, UlqFakeQuantize
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
ifmr, luq = IFMRObserver(), LuqMseObserver()
data = torch.linspace(-1, 3, 1000)[rank::2]
ifmr(data)
luq(data)
ulq = UlqFakeQuantize(clip_max=1.0 + rank, clip_min=-1.0 - 3 * rank)
ulq.fake_quantize(torch.randn(5, requires_grad=True))
found = [ulq.clip_max.item(), ulq.clip_min.item(), ifmr.scale.item(), luq.scale.item()]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 4)
        self.ulq = UlqFakeQuantize(clip_max=1.0, fixed_min=True)
        self.luq = LuqWeightFakeQuantize()
        self.luq.observe(self.linear.weight)

    def forward(self, x):
        weight = self.luq.fake_quantize(self.linear.weight)
        return torch.nn.functional.linear(self.ulq.fake_quantize(x), weight, self.linear.bias)


net = torch.nn.parallel.DistributedDataParallel(Net())
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
torch.manual_seed(rank)
for _ in range(3):
    optimizer.zero_grad()
    net(torch.randn(8, 4, requires_grad=True)).square().sum().backward()
    optimizer.step()
found += [net.module.ulq.clip_max.item(), net.module.luq.max_value.item(), net.module.linear.weight.sum().item()]
print(json.dumps(found))
dist.destroy_process_group()
"""


@pytest.mark.skipif(not dist.is_available(), reason="torch without torch.distributed")
def test_two_processes_find_what_one_finds(tmp_path):
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE, env=env, cwd=tmp_path, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    found = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
    assert found[0] == found[1]
    ifmr, luq = IFMRObserver(), LuqMseObserver()
    ifmr(torch.linspace(-1, 3, 1000))
    luq(torch.linspace(-1, 3, 1000))
    assert found[0][:2] == [1.5, -2.5]
    assert found[0][4] != 1.0  # trained, and equal on both by the comparison above
    assert found[0][2] == ifmr.scale.item()
    assert found[0][3] == pytest.approx(luq.scale.item(), rel=0.02)  # each process searches its own half


def test_a_single_process_gets_its_own_values():
    values = torch.tensor([1.0, 2.0])
    assert distributed.average(values) is values and distributed.maximum(values) is values
