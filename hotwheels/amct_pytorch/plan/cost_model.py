"""CostModel: what a layer costs on a chip with given widths, from a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ..config.arguments.coercion import as_float, as_object, as_text, report_unknown, shown
from ..config.files.text_file import read_text
from ..config.files.yaml_text import load_yaml
from ..errors import ConfigError
from ..files import PathLike
from ..files.limits import SIMPLE_CONFIG

DEFAULT_FILE = Path(__file__).with_name("cost_model.yaml")
_KEYS = ("name", "multiplication", "byte")
_PAIRS = ("8x8", "16x8", "8x4", "float")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What one layer does in one forward, whatever its widths are.

    Attributes:
      multiplications: Number of multiplications.
      weights: Number of weights.
      elements: Number of elements of its quantized inputs.
    """

    multiplications: int
    weights: int
    elements: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostModel:
    """Costs in units of one multiplication of 8 by 8 bits.

    Attributes:
      name: Of the chip.
      multiplication: Cost of one multiplication by the widths of data and weight: "8x8", "16x8", "8x4", "float".
      byte: Cost of one byte of weights and inputs that is moved.
    """

    name: str
    multiplication: dict[str, float]
    byte: float

    def cost(self, work: Work, data_bits: int | None, weight_bits: int | None) -> float:
        """Returns the cost of a layer; ``data_bits`` None: in float (16 bits), ``weight_bits`` None: no weight.

        Data of 9 to 16 bits is data of 16 bits to the chip.
        """
        pair = "float" if data_bits is None else "16x8" if data_bits > 8 else "8x4" if weight_bits == 4 else "8x8"
        bytes_of_data = work.elements * (2 if data_bits is None or data_bits > 8 else 1)
        bytes_of_weights = work.weights * (2.0 if data_bits is None else (weight_bits or 0) / 8)
        return work.multiplications * self.multiplication[pair] + self.byte * (bytes_of_data + bytes_of_weights)


def read_cost_model(path: PathLike | None = None) -> CostModel:
    """Returns the cost model in the yaml file ``path``; None: the default one, for the CUBE of the SoC.

    Raises:
      FileNotFoundError: There is no such file.
      ConfigError: A key is missing, or a cost is not a number of 0 or more.
    """
    source = DEFAULT_FILE if path is None else Path(path)
    document = as_object(load_yaml(read_text(source, "Cost model", SIMPLE_CONFIG), str(source)), str(source))
    report_unknown(document, _KEYS, str(source))
    costs = as_object(document.get("multiplication"), f"{source}: multiplication")
    report_unknown(costs, _PAIRS, f"{source}: multiplication")
    return CostModel(
        name=as_text(document.get("name", source.stem), f"{source}: name"),
        multiplication={pair: _cost(costs, pair, f"{source}: multiplication.{pair}") for pair in _PAIRS},
        byte=_cost(document, "byte", f"{source}: byte"),
    )


def _cost(values: Any, key: str, where: str) -> float:
    if key not in values:
        raise ConfigError(f"{where} is missing.")
    cost = as_float(values[key], where)
    if cost < 0:
        raise ConfigError(f"{where} is {shown(values[key])}; allowed: 0 and more.")
    return cost
