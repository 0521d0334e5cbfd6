"""Reading the Faces artefact, and the face_ids that every other artefact refers to.

``sources.catalogue`` makes a catalogue from a source; ``sources.fetching`` fetches images.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core import counter, storage
from metric_core.artefacts import ids, manifest, roots, rows, schema
from metric_core.artefacts.manifest import Manifest
from metric_core.artefacts.roots import Root
from metric_core.artefacts.rows import Part
from metric_core.errors import ConfigError, Corrupt, DataError


def face_id(namespace: str, key: str, salt: int = 0) -> int:
    """``hash63`` of namespace, key and salt: a corpus gets the same ids everywhere, without coordination.

    ``salt`` is 0 except for collisions.
    """
    return counter.hash63_joined(f"{namespace}\0{key}\0{salt}")


def face_ids(namespace: str, keys: Iterable[str]) -> np.ndarray:
    """int64 (N,): the ids of many keys, without salt."""
    return np.fromiter((face_id(namespace, key) for key in keys), np.int64)


def face_ids_with(namespace: str, keys: Sequence[str], endings: Sequence[str]) -> np.ndarray:
    """int64 (N, E): the ids of every key with every ending, without salt."""
    return counter.hash63_table([f"{namespace}\0{key}" for key in keys], [f"{ending}\0{0}" for ending in endings])


@dataclass(frozen=True)
class Faces:
    """A finished catalogue. Rows stay in source order."""

    manifest: Manifest

    @classmethod
    def open(cls, uri: str) -> "Faces":
        """Open an artefact. Raises Missing, Unfinished, Corrupt or SchemaMismatch as ``manifest.read`` does."""
        return cls(manifest.read(storage.absolute(uri), "faces"))

    @property
    def uri(self) -> str:
        """The artefact's folder."""
        return self.manifest.uri

    @property
    def root(self) -> Root:
        """The address that the rows' ``uri`` column is relative to; it also knows where else rows may point."""
        content = self.manifest.content
        return Root(str(content["root"]), content.get("roots", ()) if self.manifest.format > 1 else None)

    @property
    def namespace(self) -> str:
        """The namespace that the face_ids were derived in."""
        return str(self.manifest.content["namespace"])

    @property
    def unlabelled(self) -> bool:
        """Whether faces may have no name."""
        return bool(self.manifest.content.get("unlabelled", False))

    @property
    def schema(self) -> pa.Schema:
        """The schema of the parts."""
        return schema.UNLABELLED_FACES if self.unlabelled else schema.FACES

    @property
    def parts(self) -> list[Part]:
        """The files that hold the rows, in source order."""
        more = self.manifest.files
        return [rows.with_pieces(Part(**part), more.get(part["name"])) for part in self.manifest.content["parts"]]

    def count(self, split: str | None) -> int:
        """The number of rows of a split, or of the whole catalogue when ``split`` is None; taken from the manifest.

        Raises:
            ConfigError: there is no such split.
        """
        content = self.manifest.content
        if split is None:
            return int(content["rows"])
        if split not in content["splits"]:
            available = ", ".join(sorted(content["splits"])) or "none"
            raise ConfigError(f"{self.uri} has no split {split!r}; it has: {available}")
        return int(content["splits"][split]["rows"])

    def first_picture(self) -> Iterator[str]:
        """The address of the file that holds the first row's picture; nothing when there are no rows, or when it is
        not below the roots.

        Raises:
            Corrupt: as ``rows.read_range``.
        """
        for part in self.parts[:1]:
            table = rows.read_range(self.uri, part, 0, 1, self.columns(["uri"]))
            if address := roots.address(self.root, table["uri"][0].as_py()):
                yield address

    @cached_property
    def table(self) -> pa.Table:
        """All rows at once, for catalogues that fit in memory; every part's bytes are checked.

        Raises:
            Corrupt, SchemaMismatch: as ``rows.read``.
        """
        parts = (rows.read(self.uri, part, self.schema) for part in self.parts)
        table = pa.concat_tables([self.schema.empty_table(), *parts])
        if table.num_rows != self.manifest.content["rows"]:
            raise Corrupt(f"{self.uri}: {table.num_rows} rows, the manifest says {self.manifest.content['rows']}")
        return table

    def columns(self, names: Sequence[str]) -> pa.Schema:
        """The fields of some columns."""
        return pa.schema([self.schema.field(name) for name in names])

    def iter_columns(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of the rows, one part at a time. Raises as ``rows.read_range``."""
        columns = self.columns(names)
        return (rows.read_range(self.uri, part, 0, part.rows, columns) for part in self.parts)

    def find(self, face_id_N: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Some columns of the rows of some faces, in the order given, with nulls for a face that is not in the
        catalogue. The catalogue is read once, one part at a time.

        Args:
            face_id_N: int64 (N,); an id may be there several times.
            columns: names of columns; ``face_id`` comes before them.

        Raises:
            Corrupt: as ``rows.read_range``.
        """
        wanted_M, own = np.unique(face_id_N), ["face_id", *columns]
        found = [self.columns(own).empty_table()]
        for table in self.iter_columns(own):
            found.append(table.filter(ids.within(table["face_id"].to_numpy(), wanted_M)))
        there = pa.concat_tables(found)
        id_M = there["face_id"].to_numpy()
        order_M = np.argsort(id_M)
        at_N = np.searchsorted(id_M[order_M], face_id_N)
        there_N = ids.within(np.asarray(face_id_N), id_M[order_M])
        row_N = np.append(order_M, 0)[np.minimum(at_N, len(order_M))]
        return there.take(pa.array(row_N, mask=~there_N))

    def select(self, split: str | None) -> pa.Table:
        """The rows of one split; all rows when ``split`` is None.

        Raises:
            ConfigError: there is no such split.
        """
        self.count(split)
        return self.table if split is None else self.table.filter(pc.equal(self.table["split"], split))


def require_named(tables: Iterable[pa.Table], where: str, purpose: str) -> None:
    """Check that every face has a name.

    Args:
        tables: with a column identity.
        where: the artefact, for the message.
        purpose: what needs the names, for the message.

    Raises:
        DataError: it counts those without, and says what to do.
    """
    unnamed = total = 0
    for table in tables:
        unnamed, total = unnamed + table["identity"].null_count, total + table.num_rows
    if unnamed:
        raise DataError(
            f"{where}: {unnamed} of {total} faces have no identity, but {purpose} needs to know which pictures show "
            f"one person; catalogue a list with columns path,identity for it, without --unlabelled"
        )


def identity_codes(table: pa.Table) -> np.ndarray:
    """int64 (N,): identities numbered in byte order of their names, so that codes do not depend on row order.

    Every row has a name; see ``require_named``.
    """
    _, code_N = np.unique(np.array(table["identity"].to_pylist(), dtype=object).astype(str), return_inverse=True)
    return code_N.astype(np.int64)
