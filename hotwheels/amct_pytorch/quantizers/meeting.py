"""The processes of a torch.distributed run meet before they exchange what calibration has seen.

An exchange waits for every process. One that has fewer batches, has failed or does not calibrate never comes, and the
others would wait for the time-out of the transport. So each process writes into the store of the process group that it
has arrived, and exchanges only when all have; if they do not, it says which are missing.
"""

from __future__ import annotations

import dataclasses
import time
import weakref
from typing import Any

import torch.distributed as dist

from ..errors import CalibrationError
from ..log import get_logger
from ..torch_private import default_store
from .distributed import is_distributed, process_rank

_LOGGER = get_logger(__name__)
PATIENCE = 120.0  # seconds; half of the transport's time-out if that is less
_QUIET = 5.0  # seconds until the log says who is waited for
_MET = "met"
_WAY_OUT = (
    " Let every process calibrate with the same number of batches (an empty one counts), or calibrate before"
    " torch.distributed.init_process_group, in one process or in each for itself."
)


@dataclasses.dataclass
class _Meetings:
    """How far the meetings of one process group are; the same on all processes that have met.

    Attributes:
      attempt: Grows with every failure, so that what was begun before is not taken for what comes after.
      number: Number of the next meeting of this attempt.
    """

    attempt: int = 0
    number: int = 0


_by_store: weakref.WeakKeyDictionary[Any, _Meetings] = weakref.WeakKeyDictionary()


def meet(purpose: str) -> None:
    """Returns when all processes have come to the exchange ``purpose``, such as the search of a layer's range.

    Raises:
      CalibrationError: Another process has failed, is at another exchange, or does not come.
    """
    store = default_store() if is_distributed() else None
    if store is None:
        return
    state = _by_store.setdefault(store, _Meetings())
    ranks = range(dist.get_world_size())
    keys = [_key(state, f"{state.number}/{rank}") for rank in ranks]
    store.set(keys[process_rank()], purpose)
    _wait(store, state, keys, purpose)
    _decide(store, state, _MET)
    for rank in ranks:
        theirs = store.get(keys[rank]).decode()
        if theirs != purpose:
            raise CalibrationError(
                f"Process {process_rank()} has come to {purpose}, but process {rank} to {theirs}: all processes must"
                " calibrate the same layers in the same order." + _WAY_OUT
            )
    state.number += 1


def report_failure(error: BaseException) -> None:
    """Tells the other processes, which may wait for this one, that a calibration forward ended with ``error``."""
    store = default_store() if is_distributed() else None
    if store is None:
        return
    state = _by_store.setdefault(store, _Meetings())
    failed = _key(state, "failed")
    if not store.check([failed]):
        store.set(failed, f"process {process_rank()}: {type(error).__name__}: {error}")
    state.attempt, state.number = state.attempt + 1, 0


def _wait(store: Any, state: _Meetings, keys: list[str], purpose: str) -> None:
    begin, pause, has_said = time.monotonic(), 0.001, False
    patience = min(PATIENCE, store.timeout.total_seconds() / 2)
    while not store.check(keys):
        if store.check([_key(state, "failed")]):
            reason = store.get(_key(state, "failed")).decode()
            raise CalibrationError(f"The calibration forward has failed in another process: {reason}")
        waited = time.monotonic() - begin
        if waited > min(_QUIET, patience / 2) and not has_said:
            has_said = True
            _LOGGER.warning("Waiting at %s for the processes %s.", purpose, _missing(store, keys))
        if waited > patience:
            _decide(
                store,
                state,
                f"Process {process_rank()} has waited {patience:.0f} s at {purpose} for the processes"
                f" {_missing(store, keys)}, which have seen fewer batches or do not calibrate." + _WAY_OUT,
            )
            return
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _decide(store: Any, state: _Meetings, outcome: str) -> None:
    """Ends the meeting with `_MET` or an error, unless another process has ended it otherwise; raises the error."""
    in_force = store.compare_set(_key(state, f"{state.number}/outcome"), "", outcome).decode()
    if in_force != _MET:
        raise CalibrationError(in_force)


def _missing(store: Any, keys: list[str]) -> str:
    return ", ".join(str(rank) for rank, key in enumerate(keys) if not store.check([key]))


def _key(state: _Meetings, name: str) -> str:
    return f"amct/{state.attempt}/{name}"
