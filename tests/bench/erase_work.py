"""What the benchmark of erasing does, each function in a process of its own, whose start is not counted."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metric_core.index import erase, erase_scan, erase_shard
from metric_core.index.store import IndexStore
from metric_core.index.version import Version

_NONE = np.empty(0, np.int64)


def _timed(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was done, with the seconds that it took, of a core and of a clock."""
    cpu, wall = time.process_time(), time.monotonic()
    done = work()
    return {"cpu": round(time.process_time() - cpu, 2), "wall": round(time.monotonic() - wall, 2), **done}


def names(index: str, count: int) -> list[str]:
    """Some people of an index, spread over it."""
    version = IndexStore(index).current()
    found, _ = version.read_names(version.content())
    at = np.random.default_rng(count).permutation(len(found))[:count]
    return sorted(found.take(pa.array(at)).to_pylist())


def erased(index: str, count: int) -> dict[str, Any]:
    """Erase some people."""
    version, who = IndexStore(index).current(), names(index, count)
    before = version.content()
    done = _timed(lambda: {"files": len(erase.erase(index, _NONE, who))})
    content = version.content()
    new = [one for one in content.shards if one not in before.shards]
    return done | {
        "rows": before.rows - content.rows,
        "shards": len(new),
        "of": len(content.shards),
        "bytes": sum(one.bytes for one in new),
    }


def scanned(index: str, count: int, original: str, ids: str) -> dict[str, Any]:
    """Look for the people, of whom the scan before writes what the one afterwards looks for."""
    who = names(original, count)
    known = None
    if Path(ids).exists():
        stored = np.load(ids)
        known = erase_scan.FoundIndex(face_id_M=stored["face_id"], stored_MD=stored["stored"])

    def look() -> dict[str, Any]:
        found = erase_scan.scan(index, _NONE, who, known)
        if known is None:
            np.savez(ids, face_id=found.face_id_M, stored=found.stored_MD)
        return {"found": found.total, "faces": len(found.face_id_M), "bytes": found.bytes, "undecoded": found.undecoded}

    return _timed(look)


def rewritten(index: str, out: str) -> dict[str, Any]:
    """Decode and write every shard of the live version again, without leaving out any row."""
    content = IndexStore(index).current().content()
    other = Version(out, "0" * 16)

    def write() -> dict[str, Any]:
        count = 0
        for shard in content.shards:
            with tempfile.TemporaryDirectory() as folder, Version(index, "0" * 16).local_files(shard) as paths:
                built = erase_shard.without(paths, content.spec, np.zeros(shard.rows, bool), Path(folder))
                count += other.put_files(built, shard.template).bytes
        return {"bytes": count}

    return _timed(write)


def copied(index: str, out: str) -> dict[str, Any]:
    """Read, hash, write and read again every file of the live version."""
    version = IndexStore(index).current()
    Path(out).mkdir()

    def copy() -> dict[str, Any]:
        count = 0
        for address in version.sizes():
            data = Path(address).read_bytes()
            hashlib.sha256(data).hexdigest()
            target = Path(out, address.rsplit("/", 1)[-1])
            target.write_bytes(data)
            hashlib.sha256(target.read_bytes()).hexdigest()
            count += len(data)
        return {"bytes": count}

    return _timed(copy)


def read(index: str) -> dict[str, Any]:
    """Read every file of the index."""
    files = [path for path in Path(index).rglob("*") if path.is_file()]
    return _timed(lambda: {"bytes": sum(len(path.read_bytes()) for path in files)})
