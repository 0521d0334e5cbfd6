"""Takes an erasure back, by its receipt: its tombstones, and nothing that was removed."""

from contextlib import nullcontext
from typing import Any

from metric_core import storage
from metric_core.artefacts import tombstones
from workflows.erase import receipt
from workflows.erase.config import EraseConfig
from workflows.shared import lease
from workflows.shared.console import say


def run(config: EraseConfig) -> dict[str, Any]:
    """Lift the tombstones that a receipt is about; who is in others as well stays erased.

    Returns:
        {receipt, lifted}, the number of lists that were lifted now.

    Raises:
        DataError: the receipt is none, was edited, or belongs to other tombstones.
        Missing: there is no such receipt, or no tombstones.
        JobRunning: another job writes the Faces.
    """
    faces, address = storage.absolute(config.faces), storage.absolute(config.receipt or "")
    folder = tombstones.existing(config.tombstones or tombstones.beside(faces))
    found = receipt.read(address, folder)
    with lease.held(faces) if storage.exists(faces) else nullcontext():
        lifted = tombstones.lift(folder, found["tombstones"]["lists"])
    say(
        "the next catalogue and the next embed take their pictures again; what was removed from artefacts does not "
        "come back by itself"
    )
    return {"receipt": address, "lifted": lifted}
