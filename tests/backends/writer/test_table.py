"""The table of handlers: every call alone, over settings and opsets, against eager torch in a default session."""

from __future__ import annotations

import pytest
import torch

from hotwheels.amct_pytorch.backends.calls.composed_forms import _FORMS
from hotwheels.amct_pytorch.backends.calls.leaves import tensors_in
from hotwheels.amct_pytorch.backends.writer import one_call
from hotwheels.amct_pytorch.backends.writer.table import _HANDLERS
from tests.support.call_cases import CASES, CallCase
from tests.support.form_cases import FORM_CASES
from tests.support.written import assert_same, run_default, write

OPSETS = (13, 17, 18, 21)


@pytest.fixture
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(call: one_call.TemplateCall, *args: object) -> bytes:
        raise AssertionError(f"{call.function} was exported with torch's exporter")

    monkeypatch.setattr(one_call, "export_call", forbidden)


@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize("case", (*CASES, *FORM_CASES), ids=lambda case: case.id)
def test_call_computes_what_eager_does(case: CallCase) -> None:
    with torch.no_grad():
        expected = tensors_in(case.call(*case.inputs))
    for opset in (one for one in OPSETS if one >= case.opset):
        model = write(case.call, case.inputs, opset)
        assert_same(run_default(model, case.inputs), expected)


def test_no_handler_is_hidden_by_a_form() -> None:
    """Forms come first, so a handler of the same function would never run; one form leaves cases to its handler."""
    assert _FORMS.keys() & _HANDLERS.keys() == {"repeat_interleave"}
