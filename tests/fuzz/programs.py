"""Random programs: the traced graph and the files compute what the user's own float model computes, or it is refused.

``python -m tests.fuzz.programs --help``. A program is a forward of a few drawn statements; its seed repeats it. Nothing
is compared with our own trace: the reference is the model as Python runs it, also with another number of pictures.
"""

from __future__ import annotations

import argparse
import contextlib
import linecache
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import hotwheels.amct_pytorch as amct
from tests.support.whole_way import PATHS, take, tensors

_AXES = {"x": {0: "n"}}

# ``{v}`` and ``{u}`` are tensors [n, 8, h, w].
_STATEMENTS = (
    # modules
    "{v} = self.grouped({v})",
    "{v} = self.norm(self.point({v}))",
    "{v} = self.norm({v})",
    "{v} = self.block({v})",
    "{v} = self.transposed({v})",
    "{v} = self.up({v})",
    "{v} = self.relu({v})",
    "{v} = self.relu6({u})",
    "{v} = self.swish({v})",
    "{v} = self.dropout({v})",
    "{v} = self.maximum({v})",
    "{v} = self.mean({v})",
    "{v} = self.groups({v})",
    "{v} = self.prelu({v})",
    "{v} = self.gate({v}) * {u}",
    "{v} = self.reflect({v})[..., 1:-1, 1:-1]",
    "{v} = {v} - self.whole({v})",
    "{v} = self.listed[0]({v}); {u} = self.listed[0]({u})",
    "for one in self.listed: {v} = one({v}) + {v}",
    # names, views and changes in place
    "{u} = {v}",
    "{v} += {u}",
    "{v} *= 0.5",
    "{v}.add_(1.0)",
    "{v}.mul_({u})",
    "{v}.clamp_(-2, 2)",
    "{v} = {v}.clone()",
    "{v} = {v}.detach() + {u}",
    "{v}, {u} = {u}, {v}",
    "{v}[:, :2] = {u}[:, 2:4]",
    "{v}[:, 1] += 1.0",
    "p, q = torch.split({v}, [3, 5], dim=1); p += 1; {v} = torch.cat((p, q), 1)",
    "t = {v}.permute(0, 2, 3, 1); t *= 2",
    "t = {v}.view(-1); t += 0.5; {v} = {v} * 1.0",
    "t = {v}[:, ::2]; t.zero_(); {v} = {v} + {u}",
    "{v}.data.mul_(0.9)",
    "{v} = F.relu({v}, inplace=True)",
    "{v} = torch.relu_({v})",
    # shapes
    "p, q = {v}.chunk(2, 1); {v} = torch.cat([q, p], 1)",
    "t = self.channels({v}.permute(0, 2, 3, 1)); {v} = t.permute(0, 3, 1, 2)",
    "t = self.square({v}.flatten(2).transpose(1, 2)); {v} = t.transpose(1, 2).reshape({v}.shape)",
    "n, c, h, w = {v}.shape; {v} = {v}.view(n, c, h * w).softmax(-1).view(n, c, h, w)",
    "n, c = {v}.size()[:2]; {v} = {v}.reshape(n, 2, c // 2, *{v}.shape[2:]).transpose(1, 2).reshape({v}.size())",
    "if {v}.shape[1] == 8: {v} = {v} + 1",
    "{v} = {v} if {v}.dim() == 4 else {u}",
    "{v} = self.point({v}) if {v}.shape[2] > 4 else {v}",
    "{v} = {v}.unsqueeze(2).expand(-1, -1, 2, -1, -1).mean(2)",
    "{v} = {v}.repeat(1, 2, 1, 1)[:, 4:12]",
    "{v} = torch.tensor_split({v}, 2, dim=1)[1].repeat_interleave(2, 1)",
    "{v} = F.pixel_shuffle(F.pixel_unshuffle({v}, 2), 2)",
    "{v} = {v}.flip(-1)",
    "{v} = torch.roll({v}, (1, -1), (2, 3))",
    "{v} = F.pad({v}, (1, 1, 1, 1))[:, :, 1:-1, 1:-1]",
    "{v} = F.pad({v}, (1, 0, 1, 0), mode='reflect')[..., 1:, 1:]",
    "{v} = F.interpolate({v}[..., ::2, ::2], size={v}.shape[-2:], mode='nearest')",
    "t = F.interpolate({v}, scale_factor=0.5, mode='bilinear', align_corners=False);"
    " {v} = F.interpolate(t, size={u}.shape[2:], mode='bilinear', align_corners=True)",
    # weights
    "{v} = {v} * self.scale",
    "{v} = {v} * self.gain.view(1, -1, 1, 1) + 0.1",
    "{v} = torch.einsum('nchw,dc->ndhw', {v}, self.matrix)",
    "{v} = ({v}.permute(0, 2, 3, 1) @ self.matrix).permute(0, 3, 1, 2)",
    "{v} = F.linear({v}.movedim(1, -1), self.matrix * 0.5).movedim(-1, 1)",
    "w = self.matrix.expand({v}.shape[0], 8, 8); {v} = torch.baddbmm({v}.flatten(2), w, {u}.flatten(2)).view_as({v})",
    "{v} = F.batch_norm({v}, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias)",
    "{v} = F.group_norm({v}, 2, self.gain, self.gain)",
    "{v} = F.instance_norm({v})",
    # arithmetic
    "{v} = {v} + {u}",
    "{v} = {v} * {u}.sigmoid()",
    "{v} = torch.where({v} > 0, {u}, {v})",
    "{v} = torch.maximum({v}, {u})",
    "{v} = {v} / ({v}.norm(dim=1, keepdim=True) + 1e-2)",
    "{v} = {v} // 0.25",
    "{v} = {v} % 1.5",
    "{v} = {v}.abs().sqrt()",
    "{v} = {v}.pow(2).clamp(max=4)",
    "{v} = F.gelu({v})",
    "{v} = F.leaky_relu({v}, 0.1)",
    "{v} = {v}.cumsum(1) * 0.1",
    "{v} = torch.stack([{v}, {u}]).sum(0)",
    "y = {v}.topk(3, dim=1)[0].mean(1, keepdim=True); {v} = {v} + y",
    "{v} = {v} - {v}.amax(1, keepdim=True)",
    "at = {v}.argmax(1, keepdim=True); {v} = {v} + {v}.gather(1, at)",
    "{v} = {v}.masked_fill({v} < -1, -1.0)",
    "{v} = torch.lerp({v}, {u}, 0.3)",
    "{v} = {v}.sub({u}, alpha=0.5)",
    "{v} = torch.addcmul({v}, {u}, {u}, value=0.1)",
    "{v} = F.normalize({v}, dim=1)",
    "{v} = {v} + math.sqrt(2) / {v}.size(1)",
    "{v} = {v} * {v}.new_ones(1, 8, 1, 1) + torch.zeros_like({u})",
    "{v} = {v} + torch.arange({v}.shape[-1], dtype={v}.dtype, device={v}.device)",
    "{v} = torch.round({v} * 4) / 4",
    "{v} = {v}.sign() * {u}",
    "{v} = torch.logsumexp(torch.stack(({v}, {u})), 0)",
    "{v} = F.dropout({v}, 0.3, self.training)",
    # containers
    "d = dict(a={v}, b={u}); {v} = d['a'] + d['b']",
    "l = [{v}]; l.append({u}); {v} = sum(l)",
)
_STARTS = ("self.grouped(a)", "a", "a * 1.5", "a.clone()", "self.norm(a)")
_ENDS = (
    "a",
    "(a, b)",
    "dict(out=a, other=self.whole(b))",
    "self.last(self.whole(a).flatten(1))",
    "(self.last(torch.flatten(self.whole(a), 1)), [a, b])",
)


class Parts(nn.Module):
    """The modules and tensors that a program may use."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped, self.point = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 1, 1, 1, 2), conv()
        self.norm, self.transposed, self.listed = norm(8), nn.ConvTranspose2d(8, 8, 3, 1, 1), nn.ModuleList([conv()])
        self.block = nn.Sequential(conv(8, 16), norm(16), nn.ReLU6(), nn.Conv2d(16, 8, 3, padding=1, groups=8))
        self.up = nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2))
        self.relu, self.relu6, self.swish = nn.ReLU(inplace=True), nn.ReLU6(inplace=True), nn.Hardswish(inplace=True)
        self.dropout, self.maximum, self.mean = nn.Dropout(0.5), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)
        self.groups, self.prelu, self.gate, self.reflect = nn.GroupNorm(4, 8), nn.PReLU(8), nn.Sigmoid(), pad()
        self.whole, self.last, self.square = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 6), nn.Linear(8, 8)
        self.channels = nn.LayerNorm(8)
        self.matrix = nn.Parameter(torch.randn(8, 8) * 0.3)
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5)
        self.register_buffer("gain", torch.rand(8) + 0.5)


def conv(inputs: int = 8, outputs: int = 8) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1)


def pad() -> nn.ReflectionPad2d:
    return nn.ReflectionPad2d(1)


def norm(channels: int) -> nn.BatchNorm2d:
    """A BatchNorm with statistics that are not those of a new one."""
    made = nn.BatchNorm2d(channels)
    for tensor, (low, high) in ((made.running_mean, (-1, 1)), (made.running_var, (0.5, 2))):
        nn.init.uniform_(tensor, low, high)
    nn.init.uniform_(made.weight, 0.5, 1.5)
    nn.init.normal_(made.bias)
    return made


def program(seed: int) -> str:
    """Returns the source of a forward."""
    draw = random.Random(seed)
    lines = ["a = self.first(x)", f"b = {draw.choice(_STARTS)}"]
    for _ in range(draw.randint(3, 9)):
        v, u = draw.choice([("a", "b"), ("b", "a")])
        lines.append(draw.choice(_STATEMENTS).format(v=v, u=u))
    lines.append(f"return {draw.choice(_ENDS)}")
    return "def forward(self, x):\n" + "\n".join(f"    {line}" for line in lines) + "\n"


def model_of(seed: int) -> nn.Module:
    """Returns the model of a program, in eval mode; its source lines can be looked up, as those of a user's file."""
    text, name = program(seed), f"<program {seed}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    scope: dict[str, Any] = {"torch": torch, "F": F, "math": __import__("math")}
    exec(compile(text, name, "exec"), scope)
    torch.manual_seed(seed)
    return type("Program", (Parts,), {"forward": scope["forward"]})().eval()


def check(seed: int, path: str, folder: Path) -> str:
    """Takes a program through one path; returns ``ok``, or the class of the error with which it is refused.

    Raises:
      AssertionError: Something computes other values than the user's model.
    """
    model = model_of(seed)
    calls = [(torch.randn(count, 3, 8, 8),) for count in (2, 3)]
    try:
        expected = tensors(model, calls[0])
    except RuntimeError:  # such as a view of memory that does not allow it
        return "fails itself"
    if not all(one.isfinite().all() for one in expected):
        return "not finite"
    try:
        take(model, calls, path, folder, _AXES)
    except amct.AmctError as error:
        return type(error).__name__
    return "ok"


def run(seeds: Iterator[int], seconds: float, paths: tuple[str, ...]) -> tuple[Counter[str], list[str]]:
    """Checks programs until the time is up; returns how often each outcome was, and what failed."""
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    end = time.monotonic() + seconds
    for seed in seeds:
        for path in paths:
            with tempfile.TemporaryDirectory(prefix="amct-program-") as name, contextlib.chdir(name):
                try:
                    outcome = check(seed, path, Path(name))
                except Exception as error:  # an error of ours may be of any class
                    outcome = "failed"
                    failures.append(f"{seed}, {path}: {type(error).__name__}: {error}\n{program(seed)}")
            outcomes[f"{path}: {outcome}"] += 1
        if time.monotonic() > end:
            break
    return outcomes, failures


def main() -> None:
    """Runs programs, and prints the sources of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", metavar="PATH", help=f"of {', '.join(map(repr, PATHS))}; default all")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first program")
    args = parser.parse_args()
    seeds = iter(range(args.seed, 10**9))
    outcomes, failures = run(seeds, args.seconds, tuple(args.paths) or PATHS)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:6} {outcome}")
    print(*failures, sep="\n\n")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
