"""A quantized model is an ordinary PyTorch module: features of scripts work as with any module, or are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import hotwheels.amct_pytorch as amct
from tests.conformance.machinery import MACHINERY, Call, Machinery
from tests.conformance.subject import DYNAMIC, FX, QAT, STEPS, Subject, batch, loss_of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of floats depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("path", [FX, DYNAMIC])
@pytest.mark.parametrize(
    ("machinery", "use"),
    [pytest.param(one, use, id=f"{one.id}-{use}") for one in MACHINERY for use in one.uses],
)
def test_machinery(machinery: Machinery, path: str, use: str, tmp_path: Path) -> None:
    subject = Subject(path, use, tmp_path / "with")
    subject.folder.mkdir()
    if machinery.refusal:
        with pytest.raises(amct.AmctError, match=machinery.refusal):
            run(subject, machinery)
        return
    found, state = run(subject, machinery)
    plain = Subject(path, use, tmp_path / "plain")
    plain.folder.mkdir()
    expected, expected_state = run(plain, Machinery(id="nothing", freezes=machinery.freezes))
    for index, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=machinery.atol, msg=lambda text, i=index: f"{i}: {text}")
    assert state.keys() == expected_state.keys()
    for name, value in expected_state.items():
        torch.testing.assert_close(
            state[name], value, rtol=0, atol=machinery.atol, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("path", [FX, DYNAMIC])
def test_files_follow_a_replaced_batch_norm(path: str, tmp_path: Path) -> None:
    """The statistics and weights of the new one are written; the old one has others by then."""
    subject = Subject(path, QAT, tmp_path)
    torch.manual_seed(0)
    model = subject.make()
    subject.switch(model, calibration=True)
    with torch.no_grad():
        model(batch(0)), model(batch(1))
    subject.switch(model)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.bn1.weight = nn.Parameter(model.bn1.weight.detach() * 2)
    model.eval()
    with torch.no_grad():
        model(batch(0)), model(batch(1))
        expected = model(batch(0)[:1])
    fake_quant = str(subject.save(model)).replace("deploy", "fake_quant")
    session = onnxruntime.InferenceSession(fake_quant)
    found = session.run(None, {session.get_inputs()[0].name: batch(0)[:1].numpy()})[0]
    assert abs(torch.from_numpy(found) - expected).max() <= 1e-5


def run(subject: Subject, machinery: Machinery) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Returns all outputs of a whole script, and the state at its end."""
    torch.manual_seed(1)
    model = machinery.before(subject.make(), subject)
    if machinery.freezes:
        amct.freeze_batch_norm(model)
    follower = None if machinery.copies is None else machinery.copies(model)
    subject.switch(model, calibration=True)
    outputs = [_watched(machinery.calibrate, model, seed, machinery) for seed in range(2)]
    subject.switch(model)
    model = machinery.after(model, subject)
    subject.switch(model)
    if subject.use == QAT:
        outputs += _trained(model, machinery)
    if follower is not None:
        follower.update(model)
        model = follower.module
        subject.switch(model)
    model.eval()
    with torch.no_grad():
        for seed in range(2):  # the dynamic path writes the record of a trained model in its first evaluations
            model(batch(seed))
    outputs += [_watched(machinery.evaluate, model, seed, machinery) for seed in range(2)]
    return outputs, _state_of(model)


def _watched(call: Call, model: nn.Module, seed: int, machinery: Machinery) -> Tensor:
    with torch.no_grad(), machinery.watching():
        return call(model, batch(seed)).detach().clone()


def _trained(model: nn.Module, machinery: Machinery) -> list[Tensor]:
    optimizer, outputs = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9), []
    for step in range(STEPS):
        optimizer.zero_grad()
        with machinery.training():
            output = machinery.train(model, batch(step))
            loss = loss_of(output, step)
        loss.backward()
        optimizer.step()
        outputs.append(output.detach().clone())
    return outputs


def _state_of(model: nn.Module) -> dict[str, Tensor]:
    """Its state_dict under the names of the quantized model itself."""
    prefixes = ("module.", "model.", "_orig_mod.")
    state = {}
    for name, value in model.state_dict().items():
        while name.startswith(prefixes):
            name = name.partition(".")[2]
        state[name] = value.detach().clone()
    return state
