"""A state that is loaded in linear time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hotwheels.amct_pytorch.workflows.strict_loading import load_strictly


class TestLoadStrictly:
    """Loading a state is what torch does, by the same text where it does not fit."""

    @staticmethod
    def net() -> nn.Module:
        inner = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        return nn.ModuleDict({"a": inner, "ab": nn.Linear(1, 1), "none": nn.Sequential()})

    def test_all_entries_reach_their_places(self) -> None:
        source, target = self.net(), self.net()
        seen: list[nn.Module] = []
        target["a"].register_load_state_dict_post_hook(lambda module, keys: seen.append(module))
        load_strictly(target, source.state_dict())
        for name, value in target.state_dict().items():
            assert torch.equal(value, source.state_dict()[name]), name
        assert seen == [target["a"]]

    @pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "all"])
    def test_errors_are_those_of_torch(self, change: str) -> None:
        state = dict(self.net().state_dict())
        if change in ("missing", "all"):
            del state["a.0.bias"]
        if change in ("unexpected", "all"):
            state |= {"a.2.weight": torch.zeros(1), "other": torch.zeros(1)}
        if change in ("shape", "all"):
            state["ab.weight"] = torch.zeros(5)
        with pytest.raises(RuntimeError) as expected:
            self.net().load_state_dict(state)
        with pytest.raises(RuntimeError) as found:
            load_strictly(self.net(), state)
        assert str(found.value) == str(expected.value)
