"""What the steps of an erasure from an index have in common: whose rows are erased, and what was done to files."""

# N: rows of a shard, E: erased ones, M: erased faces, P: identities of a shard.

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

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


@dataclass(frozen=True)
class Gone:
    """The erased rows of a shard."""

    at_E: np.ndarray
    """int64, ascending positions"""
    face_id_E: np.ndarray
    left_P: np.ndarray
    """bool (P,): which of the shard's identities have other rows"""

    def __len__(self) -> int:
        return len(self.at_E)


@dataclass
class Search:
    """Looks in the rows of shards for what is erased, in those of each shard once."""

    target: Target
    _named: dict[str, np.ndarray] = field(default_factory=dict)
    """int64, positions of the rows with an erased name, by the shard's digest"""
    _found: dict[str, Gone] = field(default_factory=dict)

    def complete(self, shards: Iterable[tuple[Version, Shard]]) -> Target:
        """Add to the target the ids of all faces of its people, which neighbours and masks are known by. Raises Missing
        or Corrupt."""
        found = [self.target.face_id_M]
        for version, shard in shards if self.target.identities else ():
            if shard.digest not in self._named:
                with version.local_file(shard, "rows") as path:
                    rows = read_rows(path)
                    self._named[shard.digest] = np.flatnonzero(named(rows["identity"], self.target.names))
                    found.append(rows["face_id"].to_numpy()[self._named[shard.digest]])
        self.target = replace(self.target, face_id_M=np.unique(np.concatenate(found)))
        return self.target

    def gone(self, version: Version, shard: Shard) -> Gone:
        """The erased rows of a shard. Raises Missing or Corrupt."""
        if shard.digest not in self._found:
            with version.local_file(shard, "rows") as path:
                rows = read_rows(path)
                face_id_N, identity = rows["face_id"].to_numpy(), rows["identity"]
                gone_N = self.target.has(face_id_N)
                gone_N[self._named.get(shard.digest, [])] = True
                left_P = np.ones(len(identity.dictionary), bool)
                if gone_N.any():
                    left_P = np.bincount(
                        identity.indices.fill_null(-1).to_numpy()[~gone_N] + 1, minlength=len(left_P) + 1
                    )
                    left_P = left_P[1:] > 0
                self._found[shard.digest] = Gone(np.flatnonzero(gone_N), face_id_N[gone_N], left_P)
        return self._found[shard.digest]


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
