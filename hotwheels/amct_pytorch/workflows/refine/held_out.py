"""Which pictures of the data of a refinement are held out to judge its results."""

from __future__ import annotations

HELD_OUT = 4  # every fourth picture
TOO_FEW = f"fewer than {HELD_OUT} pictures: none can be held back to judge"


def split(pictures: int, batch: int) -> tuple[slice, slice]:
    """Returns (pictures to learn from, held-out pictures): the last quarter of a batch; of small batches every fourth.

    Args:
      pictures: Number of pictures in the batch.
      batch: Number of the batch among those of all processes.
    """
    if pictures < HELD_OUT:
        teaches = batch % HELD_OUT != HELD_OUT - 1
        return (slice(0, pictures), slice(0, 0)) if teaches else (slice(0, 0), slice(0, pictures))
    held = pictures // HELD_OUT
    return slice(0, pictures - held), slice(pictures - held, pictures)
