"""ChannelAxis: the axis of the channels of one tensor, as far as it is known."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ChannelAxis:
    """The axis of the channels.

    Attributes:
      index: Negative, counted from the last axis.
      rank: Number of dimensions of the tensor; None if it is not known.
    """

    index: int
    rank: int | None

    @property
    def is_second(self) -> bool:
        """Whether the channels are on axis 1, as a BatchNorm needs; False if that is not known."""
        return self.rank is not None and self.index == 1 - self.rank

    def is_spread_by(self, shape: tuple[int, ...], channels: int) -> bool:
        """Whether a constant of ``shape`` has one value per channel, or a single value, and adds no dimension."""
        if len(shape) > 1 and (self.rank is None or len(shape) > self.rank):
            return False
        if all(size == 1 for size in shape):
            return True
        sizes = {index - len(shape): size for index, size in enumerate(shape) if size != 1}
        return sizes == {self.index: channels}
