"""A quantized model is an ordinary PyTorch module: features of scripts work as with any module, or are refused."""

from __future__ import annotations

import copy
import functools
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import hotwheels.amct_pytorch as amct
from tests.conformance.machinery import MACHINERY, Call, Machinery
from tests.conformance.subject import (
    DYNAMIC,
    FX,
    PTQ,
    QAT,
    STEPS,
    Subject,
    batch,
    calibrated,
    fake_quant_file_on,
    loss_of,
)


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
    expected, expected_state = plain_run(path, use, machinery.freezes)
    for index, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=machinery.atol, msg=lambda text, i=index: f"{i}: {text}")
    assert state.keys() == expected_state.keys()
    for name, value in expected_state.items():
        torch.testing.assert_close(
            state[name], value, rtol=0, atol=machinery.atol, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("path", [FX, DYNAMIC])
def test_another_forward_of_a_module(path: str, tmp_path: Path) -> None:
    """As accelerate sets on submodules. The dynamic path calls it; the FX path computes without it and refuses it."""
    model = calibrated(Subject(path, PTQ, tmp_path)).eval()
    with torch.no_grad():
        before = model(batch(0))
        old = model.conv1.forward
        model.conv1.forward = lambda x: old(x) * 2
        if path == FX:
            with pytest.raises(amct.UnsupportedModelError, match="'conv1' of the quantized model was given another"):
                model(batch(0))
        else:
            assert not torch.equal(model(batch(0)), before)


@pytest.mark.parametrize("path", [FX, DYNAMIC])
def test_functional_call_with_the_state_of_another_model(path: str, tmp_path: Path) -> None:
    """Siblings share quantizers. With ``tie_weights`` torch leaves the other state in modules that have two names."""
    subject, other = (Subject(path, PTQ, tmp_path / name) for name in ("model", "other"))
    subject.folder.mkdir(), other.folder.mkdir()
    model, theirs = calibrated(subject).eval(), other.make()
    other.switch(theirs, calibration=True)
    with torch.no_grad():
        theirs(batch(2) * 3), theirs(batch(3) * 3)
        other.switch(theirs)
        expected, before = theirs.eval()(batch(0)), model(batch(0))
        assert not torch.equal(expected, before)
        state = {**dict(theirs.named_parameters()), **dict(theirs.named_buffers())}
        assert torch.equal(torch.func.functional_call(model, state, batch(0), tie_weights=False), expected)
        assert torch.equal(model(batch(0)), before)


@pytest.mark.parametrize("path", [FX, DYNAMIC])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_model_cast_after_calibration_is_saved(dtype: torch.dtype, path: str, tmp_path: Path) -> None:
    """The files hold float32, and their results are those of the cast model but for its rounding."""
    model = calibrated(subject := Subject(path, QAT, tmp_path)).eval().to(dtype)
    with torch.no_grad():
        model(batch(0).to(dtype)), model(batch(1).to(dtype))
        expected = model(batch(0)[:1].to(dtype)).float()
    subject.save(model)
    assert next(model.parameters()).dtype == dtype
    assert abs(fake_quant_file_on(subject, batch(0)[:1]) - expected).max() <= 0.03 * abs(expected).max()


@pytest.mark.parametrize("path", [FX, DYNAMIC])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(nn.utils.parametrizations.weight_norm, id="weight_norm"),
        pytest.param(lambda module: nn.utils.prune.l1_unstructured(module, "weight", 0.5), id="prune"),
    ],
)
def test_computed_weight_of_a_quantized_model(
    change: Callable[[nn.Module], nn.Module], path: str, tmp_path: Path
) -> None:
    """A weight that is computed since after the calibration is computed in each forward, trains and is saved."""
    model = calibrated(subject := Subject(path, QAT, tmp_path))
    change(model.conv2)
    before = {name: one.detach().clone() for name, one in model.conv2.named_parameters() if "weight" in name}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        loss_of(model(batch(step)), step).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        model(batch(0)), model(batch(1))
        expected = model(batch(0)[:1])
    subject.save(model)
    assert before and all(not torch.equal(value, model.conv2.get_parameter(name)) for name, value in before.items())
    assert abs(fake_quant_file_on(subject, batch(0)[:1]) - expected).max() <= 1e-5


@pytest.mark.parametrize("path", [FX, DYNAMIC])
def test_model_in_wrappers_is_saved(path: str, tmp_path: Path) -> None:
    model = calibrated(subject := Subject(path, QAT, tmp_path)).eval()
    wrapped = AveragedModel(model).eval()
    with torch.no_grad():
        wrapped(batch(0)), wrapped(batch(1))
        expected = wrapped(batch(0)[:1])
    subject.save(wrapped)
    assert abs(fake_quant_file_on(subject, batch(0)[:1]) - expected).max() <= 1e-5


@pytest.mark.parametrize("use", [PTQ, QAT])
@pytest.mark.parametrize("path", [FX, DYNAMIC])
def test_calls_inside_autocast(path: str, use: str, tmp_path: Path) -> None:
    """They compute in float32; only forwards of the script may round to 16 bits."""
    contents = []
    for name, is_on in (("autocast", True), ("plain", False)):
        subject = Subject(path, use, tmp_path / name)
        subject.folder.mkdir()
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_on):
            model = subject.make()
            subject.switch(model, calibration=True)
        with torch.no_grad():
            model(batch(0)), model(batch(1))
            subject.switch(model)
            model.eval()(batch(0)), model(batch(1))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_on):
            subject.save(model)
        contents.append((subject.folder / "out" / "net_quant_param_record.bin").read_bytes())
    assert contents[0] == contents[1]


def evaluated(model: nn.Module) -> nn.Module:
    model.eval()
    with torch.no_grad():
        model(batch(0)), model(batch(1))
    return model


@pytest.mark.parametrize("is_evaluated", [True, False], ids=["saved after evaluation", "saved before it"])
def test_restoring_keeps_a_finished_record(is_evaluated: bool, tmp_path: Path) -> None:
    """The files are written without another evaluation; the record of another state is not kept."""
    model = calibrated(subject := Subject(DYNAMIC, QAT, tmp_path))
    state = copy.deepcopy(model.state_dict())
    evaluated(model)
    torch.save(model.state_dict() if is_evaluated else state, tmp_path / "state.pt")
    finished = subject.record.read_text()
    restored = subject.restore(tmp_path / "state.pt")
    assert subject.record.read_text() == finished and "shift_bit" in finished
    subject.save(restored)
    state["amct_layers.conv1.activation.0.clip_max"] *= 2
    torch.save(state, tmp_path / "state.pt")
    subject.restore(tmp_path / "state.pt")
    assert "scale_d" not in subject.record.read_text()


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_copy_of_a_trained_model_does_not_write_the_record(
    copied: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    """A copy of the best state: saving it writes its own factors, then the model trains on."""
    model = calibrated(subject := Subject(DYNAMIC, QAT, tmp_path))
    best = copied(model)
    before = subject.record.read_text()
    evaluated(best)
    assert subject.record.read_text() == before
    subject.save(best)
    assert subject.record.read_text() != before
    with torch.no_grad():
        expected = best(batch(0)[:1])
    assert abs(fake_quant_file_on(subject, batch(0)[:1]) - expected).max() <= 1e-5


@pytest.mark.parametrize("path", [FX, DYNAMIC])
def test_files_follow_a_replaced_batch_norm(path: str, tmp_path: Path) -> None:
    """The statistics and weights of the new one are written; the old one has others by then."""
    subject = Subject(path, QAT, tmp_path)
    model = calibrated(subject)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.bn1.weight = nn.Parameter(model.bn1.weight.detach() * 2)
    model.eval()
    with torch.no_grad():
        model(batch(0)), model(batch(1))
        expected = model(batch(0)[:1])
    subject.save(model)
    assert abs(fake_quant_file_on(subject, batch(0)[:1]) - expected).max() <= 1e-5


@functools.cache
def plain_run(path: str, use: str, freezes: bool) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Returns what `run` returns without any machinery."""
    with tempfile.TemporaryDirectory() as folder:
        return run(Subject(path, use, Path(folder)), Machinery(id="nothing", freezes=freezes))


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
