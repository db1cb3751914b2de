"""Memory of the process: keeps freed memory while it calibrates or trains on the CPU, pauses Python's collector.

A forward or a training step takes and frees the same large tensors as the one before. glibc returns the top of its heap
to the system whenever enough of it is free, and gets it back page by page: up to 400,000 page faults in a forward of a
ResNet-50 on 16 images, up to half of its time (docs/performance.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import sys
from collections.abc import Iterator

from torch import nn

from ..log import get_logger

_log = get_logger(__name__)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of malloc.h
_NEVER = -1
_LARGEST_MMAP_THRESHOLD = 1 << 25  # the largest value that glibc accepts
# A user who sets one of these has chosen how memory is handled, so nothing is changed then.
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


def keep_freed_memory_for(model: nn.Module) -> None:
    """Calls `keep_freed_memory` if any parameter of ``model`` is on the CPU."""
    if any(parameter.device.type == "cpu" for parameter in model.parameters()):
        keep_freed_memory()


@functools.cache
def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory; returns whether glibc accepted. Once per process; False on other systems.

    Tensors above 32 MB still come from the system and go back to it.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in every C library
    if mallopt is None:
        return False
    # Both: to set one of them stops glibc from adapting the other.
    is_set = bool(mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
    _log.debug("Memory that is freed stays in this process, for its next forwards; set one of %s to change that.",
               ", ".join(SETTINGS))  # fmt: skip
    return is_set


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Returns a context in which Python does not look for cyclic garbage; memory without references is freed as ever.

    Creating and saving a model makes some hundred objects per layer (modules, nodes, values), nearly all of which stay.
    Python would look at all of them again and again, which takes a third of the time at 1,000 layers.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
