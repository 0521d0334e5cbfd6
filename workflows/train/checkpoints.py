"""The checkpoints of a training: written by the workers through Ray Train, checked and chosen when a run continues.

    _run/train/checkpoint_<time>/state.pt, state.sha256

PyTorch does not notice bytes of a checkpoint that changed, and Ray Train only knows its latest one. A damaged
checkpoint is no checkpoint: the training continues from the one before it, or from the start, and comes to the same
result.
"""

import hashlib
import io
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import torch

from metric_core import storage
from metric_core.errors import Corrupt, Missing
from workflows.shared.console import say

STATE, DIGEST = "state.pt", "state.sha256"
RUN = "train"
"""Name of the run for Ray Train, and of its folder."""
KEPT = 2
"""Checkpoints that are kept: if one is damaged, there is another."""
_NAME = r"checkpoint_\d"
_KEPT_BY_RAY = "checkpoint_manager_snapshot.json"
_MALFORMED = (
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    EOFError,
    OSError,
    struct.error,
    pickle.UnpicklingError,
)
"""What PyTorch raises for bytes that are not a checkpoint: its reader of pickles does not check what it runs."""
_REMEDY = "start again with the same arguments, and the training continues from before it"


def save(state: dict[str, Any], folder: str) -> None:
    """Write a checkpoint into a local folder, from which Ray Train copies it to the storage."""
    torch.save(state, Path(folder) / STATE)
    (Path(folder) / DIGEST).write_text(storage.sha256(str(Path(folder) / STATE)))


def latest(work: str, device: torch.device) -> dict[str, Any] | None:
    """The state in the latest sound checkpoint below ``work``; None if there is none."""
    for folder in _folders(work):
        try:
            return load(folder, device)
        except (Corrupt, Missing):  # an earlier one leads to the same result; ``prepare`` reports it
            continue
    return None


def load(folder: str, device: torch.device) -> dict[str, Any]:
    """The state in a checkpoint's folder. Raises Corrupt if it was damaged or is incomplete, or Missing."""
    address, digest = storage.join(folder, STATE), storage.join(folder, DIGEST)
    data = storage.read_bytes(address)
    # The first versions of Likeness wrote no digest.
    if storage.exists(digest) and storage.read_bytes(digest) != hashlib.sha256(data).hexdigest().encode():
        raise Corrupt(f"{address}: its sha256 is not the one in {DIGEST}; {_REMEDY}")
    try:
        state = torch.load(io.BytesIO(data), weights_only=True, map_location=device)
        if not isinstance(state, dict):
            raise ValueError(f"it holds {str(state)[:40]}")
    except _MALFORMED as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise Corrupt(f"{address} is no checkpoint ({first}); {_REMEDY}") from error
    return state


def prepare(work: str) -> int:
    """Remove what an earlier run left that cannot be used, before Ray Train starts: damaged checkpoints, older ones,
    and Ray's own record of them, which stops it if it is damaged; ``latest`` finds them without.

    Returns:
        The step of the latest checkpoint; 0 without one.
    """
    steps = [0]
    for folder in _folders(work):
        try:
            steps.append(int(load(folder, torch.device("cpu"))["step"]))
        except (Corrupt, Missing) as error:
            say(f"{str(error).partition(';')[0]}; the training continues from before it")
            storage.remove_tree(folder)
    for folder in _folders(work)[KEPT:]:
        storage.remove_tree(folder)
    storage.remove(storage.join(work, RUN, _KEPT_BY_RAY))
    return max(steps)


def _folders(work: str) -> list[str]:
    """The folders of all checkpoints, the latest first."""
    folder = storage.join(work, RUN)
    found = [name for name in storage.names(folder) if re.match(_NAME, name)]
    return [storage.join(folder, name) for name in reversed(found)]
