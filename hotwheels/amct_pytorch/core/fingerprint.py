"""Fingerprints of tensors, which tell whether any of their bits has changed since the last look.

They are read from the memory itself. A version counter would not do: ``parameter.data`` counts its changes separately,
and code outside of torch (NumPy, a collective) counts none. A copy to compare with would double the memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Sequence

from torch import Tensor

from . import native

_ARGUMENTS = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)


def fingerprint(tensors: Sequence[Tensor | None]) -> Hashable | None:
    """Returns a value that is another one for other shapes, types, orders in memory or bits; absent tensors are None.

    Two contents that differ in one 64-bit word of one tensor never have the same value, others with a probability of
    about 2^-64. One pass over the memory, of a copy if a tensor has gaps. None for tensors on a device, and without the
    compiled kernels.
    """
    function = native.function("amct_fingerprint", _ARGUMENTS)
    given = [one for one in tensors if one is not None]
    if function is None or not all(one.is_cpu for one in given):
        return None
    dense = [one if native.is_dense(one) else one.contiguous() for one in given]
    count = len(dense)
    parts = (ctypes.c_void_p * count)(*[one.data_ptr() for one in dense])
    sizes = (ctypes.c_int64 * count)(*[one.numel() * one.element_size() for one in dense])
    found = (ctypes.c_uint64 * 2)()
    function(parts, sizes, count, found)
    forms = tuple(None if one is None else (one.shape, one.stride(), one.dtype) for one in tensors)
    return found[0], found[1], forms
