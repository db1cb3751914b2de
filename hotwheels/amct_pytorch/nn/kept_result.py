"""Results that are computed again only if the tensors from which they were computed have other values.

A `KeptResult` compares the values themselves, bit by bit with copies, a `FingerprintedResult` their fingerprints. A
version counter would not do: ``parameter.data`` counts its changes separately, and code outside of torch (NumPy, a
collective) counts none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..core.fingerprint import fingerprint

# Elements of all tensors. Comparing larger ones takes as long as computing a result, and their copies take memory.
_MOST_ELEMENTS = 1 << 16
_Result = TypeVar("_Result")


class KeptResult(Generic[_Result]):
    """The last result of one computation, without gradient; it is no part of a copy or of a pickled object."""

    def __init__(self) -> None:
        """Starts without a result."""
        self._kept: tuple[Hashable, list[Tensor | None], _Result] | None = None

    def get(
        self, tensors: Sequence[Tensor | None], settings: Hashable | None, compute: Callable[..., _Result]
    ) -> _Result:
        """Returns ``compute(*tensors)``, or its last result if all ``tensors`` and ``settings`` are those of that time.

        Always computes with gradients enabled, without ``settings``, and for tensors that are large, on a device or
        not float32.

        Args:
          tensors: Everything on which the result depends; an absent tensor is None.
          settings: Everything else on which the result depends; None if that is not known.
          compute: Makes the result, which nobody changes; gets copies of ``tensors`` if the result is kept, so that
            the result shares no memory with them.
        """
        if settings is None or torch.is_grad_enabled() or not _are_small(tensors):
            self._kept = None
            return compute(*tensors)
        kept = self._kept  # one read: another thread may replace it
        if kept is not None and kept[0] == settings and all(map(_is_same, kept[1], tensors)):
            return kept[2]
        copies = [None if one is None else one.detach().clone() for one in tensors]
        result = compute(*copies)
        self._kept = settings, copies, result
        return result

    def __reduce__(self) -> tuple[type[KeptResult[Any]], tuple[()]]:
        return type(self), ()


class FingerprintedResult(Generic[_Result]):
    """The last result of one computation on tensors of any size; it is no part of a copy or of a pickled object."""

    def __init__(self) -> None:
        """Starts without a result."""
        self._kept: tuple[Hashable, _Result] | None = None

    def get(
        self, tensors: Sequence[Tensor | None], settings: Hashable | None, compute: Callable[[], _Result]
    ) -> _Result:
        """Returns ``compute()``, or its last result if all ``tensors`` and ``settings`` are those of that time.

        Computes each time without ``settings`` or fingerprints (`core.fingerprint`).

        Args:
          tensors: Everything on which the result depends; an absent tensor is None.
          settings: Everything else on which the result depends; None if that is not known.
          compute: Makes the result, which nobody changes and which shares no memory with ``tensors``.
        """
        values = None if settings is None else fingerprint(tensors)
        if values is None:
            self._kept = None
            return compute()
        key = (values, settings)
        kept = self._kept  # one read: another thread may replace it
        if kept is not None and kept[0] == key:
            return kept[1]
        result = compute()
        self._kept = key, result
        return result

    def __reduce__(self) -> tuple[type[FingerprintedResult[Any]], tuple[()]]:
        return type(self), ()


def _are_small(tensors: Sequence[Tensor | None]) -> bool:
    given = [one for one in tensors if one is not None]
    return all(one.dtype is torch.float32 and one.device.type == "cpu" for one in given) and (
        sum(one.numel() for one in given) <= _MOST_ELEMENTS
    )


def _is_same(kept: Tensor | None, given: Tensor | None) -> bool:
    """Whether both have the same bits, so that -0.0 is not 0.0; or both are None."""
    if kept is None or given is None:
        return kept is given
    return torch.equal(kept.view(torch.int32), given.view(torch.int32))
