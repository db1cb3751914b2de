"""Dialect: the keys and names for the settings of a layer in a config.json of the dynamic path (spec 9.2, 9.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ..arguments.algorithms import CLASS_OF_ALGORITHM, QUANTIZERS


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorKeys:
    """The section of one kind of tensor.

    Attributes:
      section: Key of the section in a layer.
      algorithm: Key of the algorithm's name in an entry of the section.
      algorithms: Names of the algorithms as they are written, the default first, each with the arguments of every
        entry, in order and with this package's names. Other names of the same class (``CLASS_OF_ALGORITHM``) are read.
      is_weight: Whether this is the section of the weight.
    """

    section: str
    algorithm: str
    algorithms: Mapping[str, tuple[str, ...]]
    is_weight: bool = False

    @property
    def default_quantizer(self) -> str | None:
        """Class of the default algorithm; None if the kind of layer decides the class."""
        return self.quantizer_of(next(iter(self.algorithms)))

    @property
    def readable(self) -> tuple[str, ...]:
        """All names that are read; the names that are written come first."""
        classes = {CLASS_OF_ALGORITHM[name] for name in self.algorithms}
        others = (name for name, cls in CLASS_OF_ALGORITHM.items() if cls in classes and name not in self.algorithms)
        return (*self.algorithms, *others)

    def quantizer_of(self, algorithm: str) -> str | None:
        """Returns the quantizer class of an algorithm; None for an observer, which any quantizer may have."""
        name = CLASS_OF_ALGORITHM[algorithm]
        return name if name in QUANTIZERS else None

    def algorithm_of(self, quantizer: str) -> str:
        """Returns the name that is written for a quantizer class; any other text is a name already and is returned."""
        if quantizer not in QUANTIZERS:
            return quantizer
        names = {CLASS_OF_ALGORITHM[name]: name for name in self.algorithms}
        return names.get(quantizer, next(iter(self.algorithms)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dialect:
    """One kind of document.

    Attributes:
      switch: Key that enables the layer, as it is written; ``quant_enable`` and ``retrain_enable`` are both read.
      activation: The section with one entry per input.
      weight: The section of the weight.
    """

    switch: str
    activation: TensorKeys
    weight: TensorKeys
