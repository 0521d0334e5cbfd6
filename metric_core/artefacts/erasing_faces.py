"""Removes erased rows from Faces; see ``erasing``.

Shape letters: N rows of a part.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core.artefacts import erasing, rows
from metric_core.artefacts.erasing import Erased, Target
from metric_core.artefacts.faces import Faces
from metric_core.artefacts.rows import Part


def erase(faces: Faces, target: Target) -> Erased:
    """Write the parts again that have erased rows, and switch to them. The whole catalogue is read once, for the digest
    of what remains.

    Raises:
        Corrupt, SchemaMismatch: a part is damaged.
        Occupied, ConfigError: as ``erasing.switch``.
    """
    work = _Work(faces, target)
    digest = rows.Digest()
    for table in digest.over(work.remaining()):
        work.count(table)
    if work.erased.files:
        before = faces.manifest
        content = before.content | {
            "parts": [part.entry for part in work.parts],
            "rows_digest": digest.hexdigest(),
            "salts": {key: salt for key, salt in before.content["salts"].items() if key not in work.keys},
            **work.summary(),
        }
        names = {part.name for part in work.parts}
        files = {name: more for name, more in before.files.items() if name in names} | work.files
        erasing.switch(before, content, files, work.erased, target)
    erasing.sweep(faces.uri, [part.name for part in work.parts])
    return work.erased


class _Work:
    """What remains, part by part."""

    def __init__(self, faces: Faces, target: Target) -> None:
        self._faces, self._target = faces, target
        self.erased = Erased()
        self.parts: list[Part] = []
        """Those of the new generation."""
        self.files: dict[str, Any] = {}
        """``Manifest.files`` of the parts that were written."""
        self.keys: set[str] = set()
        """Keys of the erased rows."""
        self._rows: Counter[str | None] = Counter()
        self._people: dict[str | None, set[str]] = {}
        self._unnamed = 0

    def remaining(self) -> Iterator[pa.Table]:
        """The rows that stay, in order; parts with others are written without them."""
        uri, columns = self._faces.uri, self._faces.schema
        for part in self._faces.parts:
            table = rows.read(uri, part, columns)
            erased_N = self._target.has(table["face_id"].to_numpy())
            if not erased_N.any():
                self.parts.append(part)
                yield table
                continue
            self.keys.update(table["key"].filter(erased_N).to_pylist())
            table = table.filter(~erased_N)
            new = self._write(part, table, erased_N) if table.num_rows else None
            self.erased.rows["faces"] += int(erased_N.sum())
            self.erased.wrote(uri, part.name, part.sha256, new.name if new else None, new.sha256 if new else None)
            yield table

    def _write(self, part: Part, table: pa.Table, erased_N: np.ndarray) -> Part:
        name = erasing.generation_name(part.name, self._faces.manifest)
        new = rows.rewrite(self._faces.uri, part, table, self._faces.schema, name)
        numbers = sorted({*part.erased, *part.numbers[erased_N].tolist()})
        self.files |= {name: more | {"erased": numbers} for name, more in rows.pieces(self._faces.uri, [new]).items()}
        self.parts.append(new)
        return new

    def count(self, table: pa.Table) -> None:
        """Count rows and people that stay, as the catalogue's manifest has them."""
        counted = table.group_by(["split", "identity"]).aggregate([([], "count_all")])
        for split, identity, number in zip(*(counted[n].to_pylist() for n in ("split", "identity", "count_all"))):
            self._rows[split] += number
            people = self._people.setdefault(split, set())
            if identity is None:
                self._unnamed += number
            else:
                people.add(identity)

    def summary(self) -> Mapping[str, Any]:
        """{rows, identities, splits}, and in an unlabelled corpus {unnamed}."""
        splits = {
            split: {"rows": self._rows[split], "identities": len(people)}
            for split, people in sorted(self._people.items(), key=lambda pair: pair[0] or "")
            if split is not None
        }
        unnamed = {"unnamed": self._unnamed} if "unnamed" in self._faces.manifest.content else {}
        people = sum(map(len, self._people.values()))
        return {"rows": self._rows.total(), "identities": people, "splits": splits, **unnamed}


def own_words(table: pa.Table) -> set[str]:
    """Keys of pictures, and the uris of those in a file of their own."""
    own = table.filter(pc.equal(table["kind"], "file"))
    return {*table["key"].to_pylist(), *own["uri"].to_pylist()}
