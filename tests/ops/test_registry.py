from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from hotwheels.amct_pytorch import custom_op
from hotwheels.amct_pytorch.capacity import Capacity, read_capacity
from hotwheels.amct_pytorch.custom_op import CustomModuleBase, EltwiseAdd
from hotwheels.amct_pytorch.ops.desc import OpDesc, Role
from hotwheels.amct_pytorch.ops.registry import Registry
from hotwheels.amct_pytorch.ops.table import TABLE
from tests.support.log_lines import LogLines


class HardSigmoid(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.clamp(x / 6 + 0.5, 0, 1)


class Split(nn.Module):
    """A user's own class with the name of an extension class of the package."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Sine(CustomModuleBase):
    onnx_type = "Sin"


class Conv(nn.Conv2d):
    pass


def capacity_with(**rows: tuple[str, ...]) -> Capacity:
    """The shipped file with values appended to rows."""
    shipped = read_capacity()
    if "no_weight_quant_types" in rows:  # each value has a partner in the row of ONNX types
        rows["no_weight_quant_onnx_types"] = tuple("OnnxType" for _ in rows["no_weight_quant_types"])
    changed = {name: (*getattr(shipped, name), *values) for name, values in rows.items()}
    return dataclasses.replace(shipped, **changed)


@pytest.mark.parametrize("desc", TABLE, ids=[desc.name for desc in TABLE])
def test_every_operation_has_a_row_in_the_shipped_file(desc: OpDesc) -> None:
    """A new operation needs a pair in NO_WEIGHT_QUANT_TYPES, or a name in FX_QUANT_TYPES if only FX has it."""
    registry = Registry()
    (found,) = [one for one in registry.descs if one.name == desc.name]
    assert found.is_listed
    for path in desc.modules:
        assert registry.find_module(path).is_listed  # type: ignore[union-attr]


def test_every_name_of_the_rows_is_an_operation() -> None:
    shipped = read_capacity()
    names = {name for desc in TABLE for name in desc.capacity_names} | set(custom_op.__all__)
    listed = (shipped.quantizable_types, shipped.no_weight_quant_types, shipped.fx_quant_types)
    switched = (shipped.not_default_quant_types, shipped.fused_activation_types, shipped.fuse_types)
    for row in (*listed, *switched, shipped.channel_wise_types, shipped.shift_n_types):
        assert set(row) <= names
    all_listed = [name for row in listed for name in row]
    assert len(all_listed) == len(set(all_listed))


def test_the_dynamic_path_does_not_read_the_row_of_the_fx_path() -> None:
    assert Registry().find_module(nn.GELU).is_listed  # type: ignore[union-attr]
    assert not Registry(with_fx_row=False).find_module(nn.GELU).is_listed  # type: ignore[union-attr]


def test_normalizations_that_may_be_folded() -> None:
    registry = Registry()
    assert registry.is_fusable(nn.BatchNorm2d)
    assert registry.is_fusable(nn.SyncBatchNorm)
    assert not registry.is_fusable(nn.LayerNorm)


def test_class_name_in_the_row_makes_an_extension() -> None:
    registry = Registry(capacity_with(no_weight_quant_types=("HardSigmoid",)))
    match = registry.match_module(HardSigmoid)
    assert match is not None
    assert match.op.role is Role.EXTENSION
    assert match.type == f"{HardSigmoid.__module__}.HardSigmoid"
    assert registry.is_leaf_type(HardSigmoid)


def test_dotted_path_in_the_row_makes_an_extension() -> None:
    path = f"{HardSigmoid.__module__}.HardSigmoid"
    registry = Registry(capacity_with(no_weight_quant_types=(path,)))
    assert registry.find_module(HardSigmoid) is not None


def test_unlisted_class_is_neither_known_nor_a_leaf() -> None:
    registry = Registry(read_capacity())
    assert registry.find_module(HardSigmoid) is None
    assert not registry.is_leaf_type(HardSigmoid)


def test_shipped_extension_names_do_not_catch_user_classes() -> None:
    registry = Registry(read_capacity())
    assert registry.find_module(Split) is None
    assert not registry.is_leaf_type(Split)


def test_extension_class_of_the_package_is_a_leaf_and_quantizable() -> None:
    registry = Registry(read_capacity())
    op = registry.find_module(EltwiseAdd)
    assert op is not None
    assert op.role is Role.EXTENSION
    assert registry.is_leaf_type(EltwiseAdd)


def test_custom_module_is_quantizable_once_it_is_listed() -> None:
    assert Registry(read_capacity()).find_module(Sine) is None
    assert Registry(read_capacity()).is_leaf_type(Sine)
    assert Registry(capacity_with(no_weight_quant_types=("Sine",))).find_module(Sine) is not None


def test_extension_may_be_off_by_default() -> None:
    capacity = capacity_with(no_weight_quant_types=("HardSigmoid",), not_default_quant_types=("HardSigmoid",))
    op = Registry(capacity).find_module(HardSigmoid)
    assert op is not None
    assert not op.is_default_enabled


def test_not_default_row_switches_every_spelling_off() -> None:
    registry = Registry(capacity_with(not_default_quant_types=("Softmax",)))
    op = registry.find_function(nn.functional.softmax)
    assert op is not None
    assert not op.is_default_enabled


def test_fused_row_decides_which_activations_belong_to_a_convolution() -> None:
    registry = Registry(capacity_with(fused_activation_types=("SiLU",)))
    op = registry.find_module(nn.SiLU)
    assert op is not None
    assert op.role is Role.FUSED_ACTIVATION


def test_subclass_has_the_type_string_of_its_base() -> None:
    match = Registry().match_module(Conv)
    assert match is not None
    assert match.type == "torch.nn.Conv2d"
    assert match.op.role is Role.CONV


def test_misspelled_row_is_warned_of_once_and_a_row_of_the_users_own_is_not(log_lines: LogLines) -> None:
    capacity = dataclasses.replace(
        read_capacity(), source="own.csv", extra={"NO_WEIGHT_QUANT_TYPE": ("ReLU",), "MINE": True}
    )
    for _ in range(2):
        Registry(capacity)
    assert log_lines.warnings == [
        "own.csv: row 'NO_WEIGHT_QUANT_TYPE' has no effect. Did you mean 'NO_WEIGHT_QUANT_TYPES'?"
    ]
