"""What the steps of an erasure from an index have in common: whose rows are erased, and what was done to files."""

# N: rows of a shard, M: erased faces.

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core import storage
from metric_core.artefacts.erasing import FileChange, Target
from metric_core.index.layout import Shard
from metric_core.index.shard import read_rows
from metric_core.index.version import Version


@dataclass
class Changes:
    """What was done to files so far."""

    by_address: dict[str, FileChange] = field(default_factory=dict)
    passing: set[str] = field(default_factory=set)
    """Addresses of files that an erasure makes and removes again."""

    def remove(self, address: str) -> None:
        """Remove a file, and this machine's copy of it."""
        noted = self.by_address.get(address)
        sha256 = noted.before if noted is not None and noted.before is not None else storage.sha256(address)
        storage.remove(address)
        storage.forget([sha256])
        self.note(address, sha256, None)

    def note(self, address: str, before: str | None, after: str | None) -> None:
        """Note what was done to a file; of several things, the first state and the last."""
        if address in self.by_address:
            before = self.by_address[address].before
        if before == after or address in self.passing:
            self.by_address.pop(address, None)
        else:
            self.by_address[address] = FileChange(address, before, after)


def hit(rows: pa.RecordBatch | pa.Table, target: Target) -> np.ndarray:
    """bool (N,): which rows with face_id and identity are erased."""
    gone_N = target.has(rows["face_id"].to_numpy())
    if target.identities:
        whose = rows["identity"] if isinstance(rows, pa.RecordBatch) else rows["identity"].combine_chunks()
        gone_N |= named(whose, target.names)
    return gone_N


def gone(version: Version, shard: Shard, target: Target) -> np.ndarray:
    """bool (N,): which rows of a shard are erased. Raises Missing or Corrupt."""
    with version.local_file(shard, "rows") as path:
        return hit(read_rows(path), target)


def named(identity: pa.Array, names: pa.Array) -> np.ndarray:
    """bool (N,): whose names are among some; False for a face without a name."""
    coded = identity if isinstance(identity, pa.DictionaryArray) else identity.dictionary_encode()
    wanted_M = pc.is_in(coded.dictionary, value_set=names).to_numpy(zero_copy_only=False)
    found_N: np.ndarray = np.append(wanted_M, False)[coded.indices.fill_null(-1).to_numpy()]
    return found_N


def receipts(version: Version) -> dict[int, Shard]:
    """The shards of a version that have a sound receipt and whose rows are there, by number."""
    found = version.receipts().items()
    return {number: shard for number, shard in found if storage.exists(version.address(shard, "rows"))}
