"""What the benchmark of erasing does, each function in a process of its own, whose start is not counted."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metric_core import storage
from metric_core.index import codec, erase, erase_scan, layout
from metric_core.index import version as versions
from metric_core.index.engine import faiss
from metric_core.index.store import IndexStore

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
    """Write every file again that has rows of the live version, as it is: read, checked and decoded by the library that
    reads it, written by the one that wrote it, hashed, and stored under its digest. Nothing of ``erase`` is used."""
    version = IndexStore(index).current()
    content = version.content()
    own = {version.place(content, name): content.files[name].sha256 for name in _OF_ROWS if name in content.files}
    for shard in content.shards:
        own |= {version.address(shard, ending): file.sha256 for ending, file in shard.files.items()}
    for number in range(len(content.shards)):
        own[version.file(versions.near_name(number))] = storage.sha256(version.file(versions.near_name(number)))

    def write() -> dict[str, Any]:
        count = 0
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder, "file")
            for address, sha256 in own.items():
                with storage.verified(address, sha256) as path:
                    _WRITERS[path.suffix](path, made)
                name = storage.sha256(str(made))
                storage.put_file(made, storage.join(out, f"{name}{path.suffix}"))
                count += made.stat().st_size
        return {"bytes": count}

    return _timed(write)


def _write_faiss(source: Path, target: Path) -> None:
    faiss.write_index(codec.read_file(source), str(target))


def _write_arrow(source: Path, target: Path) -> None:
    table = pa.ipc.open_file(pa.memory_map(str(source))).read_all()
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _write_numbers(source: Path, target: Path) -> None:
    with open(target, "wb") as sink:
        np.save(sink, np.load(source, allow_pickle=False))


def _write_bytes(source: Path, target: Path) -> None:
    np.fromfile(source, np.uint8).tofile(target)


_WRITERS: dict[str, Callable[[Path, Path], None]] = {
    ".faiss": _write_faiss,
    ".rows": _write_arrow,
    ".arrow": _write_arrow,
    ".npy": _write_numbers,
    ".vectors": _write_bytes,
    ".codes": _write_bytes,
}
"""How a file is written again, by its ending."""
_OF_ROWS = (layout.NAMES, layout.CODES, layout.PROBES, layout.TRUTH)
"""Files of a version that are made of its rows."""


def read(index: str) -> dict[str, Any]:
    """Read every file of the index."""
    files = [path for path in Path(index).rglob("*") if path.is_file()]
    return _timed(lambda: {"bytes": sum(len(path.read_bytes()) for path in files)})
