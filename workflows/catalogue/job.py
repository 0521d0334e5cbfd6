"""``likeness catalogue``: a corpus of face pictures to Faces, the list that the other jobs read. No image is copied."""

from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from metric_core import storage
from metric_core.artefacts import keys, manifest, rows, tombstones
from metric_core.artefacts.faces import Faces
from metric_core.artefacts.manifest import Manifest
from metric_core.artefacts.roots import Elsewhere
from metric_core.artefacts.rows import Digest, Part
from metric_core.errors import DataError, Occupied
from metric_core.sources import catalogue
from metric_core.sources.found import TWINS
from workflows.catalogue import scanning
from workflows.catalogue.config import CatalogueConfig
from workflows.shared import lease, provenance
from workflows.shared.console import say
from workflows.shared.lease import Lease


def run(config: CatalogueConfig) -> dict[str, Any]:
    """Write the catalogue.

    Returns:
        {faces, rows, identities, splits: {name: {rows, identities}}}, and {erased} where faces were left out

    Raises:
        JobRunning: another run writes to ``out``, or has taken over from this one.
        Occupied: ``out`` holds something else, or was finished with other faces.
        Corrupt: ``out`` is finished and damaged.
        DataError: the source holds no pictures, or something that cannot be catalogued.
        Missing: the source, or a folder given in ``tombstones``, does not exist.
    """
    source_address, out = storage.absolute(config.source), storage.absolute(config.out)
    source = catalogue.scan(source_address)
    namespace = config.namespace or source.name
    splits = _Splits(config)
    with closing(scanning.tables(source, namespace, config)) as scanned:
        erased = _Erased(config, out, namespace, source.root)
        found = (table for table in map(erased.filter, scanned) if table.num_rows)
        first = next(found, None)
        if first is None:
            but = f" but the {erased.count} that were erased" if erased.count else ""
            raise DataError(f"{source_address} holds no pictures{but}; expected one folder of pictures per person")
        tables = (catalogue.with_splits(table, splits.of(table)) for table in chain([first], found))
        plan = {"root": source.root, "namespace": namespace}
        done = manifest.begin(out, "faces", plan)
        if not done:
            with lease.held(out) as held:
                done = manifest.begin(out, "faces", plan)  # another run may have finished before the lease was ours
                if not done:
                    elsewhere = Elsewhere(source.root)
                    content = plan | catalogue.write(out, elsewhere.over(_while_held(tables, held)), namespace)
                    content |= {"roots": elsewhere.roots} if elsewhere.roots else {}
                    splits.report()
                    pieces = rows.pieces(out, [Part(**part) for part in content["parts"]])
                    held.confirm()
                    manifest.write(out, "faces", content, provenance.record(), pieces)
        if done:
            _require_same_rows(done, tables)
            rows.pieces(out, Faces(done).parts)  # which reads them back
            content = done.content
            say(f"{out} is finished already; nothing to do")
    if erased.count:
        say(f"left out {erased.count} erased faces")
    if twins := source.ignored.pop(TWINS, 0):
        say(
            f"{twins} pictures have a twin whose name differs only in the ending, so their keys contain the ending; "
            f"the first of {', '.join(keys.IMAGE_ENDINGS[:3])}, … keeps the plain key"
        )
    for ending, count in sorted(source.ignored.items()):
        say(f"skipped {count} files ending in {ending}: not pictures")
    answer = {"faces": out, **{name: content[name] for name in ("rows", "identities", "splits")}}
    return answer | ({"erased": erased.count} if erased.count else {})


def _while_held(tables: Iterator[pa.Table], held: Lease) -> Iterator[pa.Table]:
    """The same tables. A run that was taken over stops here, before it replaces a part of the run that took over."""
    for table in tables:
        held.confirm()
        yield table
    held.confirm()


def _require_same_rows(done: Manifest, tables: Iterator[pa.Table]) -> None:
    digest = Digest()
    count = sum(table.num_rows for table in digest.over(tables))
    if digest.hexdigest() != done.content["rows_digest"]:
        raise Occupied(
            f"{done.uri} is finished and lists other faces than the source now has, or other splits, or faces that "
            f"were erased since ({done.content['rows']} rows there, {count} here); give --out another folder"
        )


class _Erased:
    """Leaves out erased faces, and counts them."""

    def __init__(self, config: CatalogueConfig, out: str, namespace: str, root: str) -> None:
        self._tombstones = tombstones.of(out, config.tombstones)
        self._namespace, self._root = namespace, root
        self.count = 0

    def filter(self, table: pa.Table) -> pa.Table:
        """The rows that are not erased."""
        if not self._tombstones:
            return table
        erased_N = self._tombstones.erased(table, self._namespace, self._root)
        self.count += int(erased_N.sum())
        return table.filter(~erased_N)


class _Splits:
    """Which people belong to which split, from a file or by a seeded draw."""

    def __init__(self, config: CatalogueConfig) -> None:
        self._config = config
        self._given = catalogue.read_splits(storage.absolute(config.splits)) if config.splits else {}
        self._unlisted: set[str] = set()
        self._listed = False

    def of(self, table: pa.Table) -> dict[str, str]:
        """{identity: split}, for the people of these faces and maybe others."""
        people = set(pc.unique(table["identity"]).to_pylist())
        if self._config.splits:
            self._unlisted |= people - self._given.keys()
            self._listed |= not people.isdisjoint(self._given)
            return self._given
        if self._config.valid_fraction:
            shares = {"train": 1 - self._config.valid_fraction, "valid": self._config.valid_fraction}
            return catalogue.seeded_splits(list(people), shares, self._config.seed)
        return {}

    def report(self) -> None:
        """Report people whom the file does not list. Raises DataError if it lists nobody of the source."""
        if not self._unlisted:
            return
        first = min(self._unlisted)
        if not self._listed:
            raise DataError(
                f"{self._config.splits} names none of the source's {len(self._unlisted)} people ({first}, …)"
            )
        say(f"{len(self._unlisted)} people are not in {self._config.splits} and get no split ({first}, …)")
