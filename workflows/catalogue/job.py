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
from metric_core.sources import catalogue, ignored, naming
from metric_core.sources.found import TWINS, Notes, Source, first_few
from workflows.catalogue import scanning
from workflows.catalogue.config import CatalogueConfig
from workflows.shared import lease, provenance
from workflows.shared.console import say
from workflows.shared.lease import Lease


def run(config: CatalogueConfig) -> dict[str, Any]:
    """Write the catalogue.

    Returns:
        {faces, rows, identities, splits: {name: {rows, identities}}}, {unnamed} in an unlabelled corpus, and {erased}
        where faces were left out

    Raises:
        JobRunning: another run writes to ``out``, or has taken over from this one.
        Occupied: ``out`` holds something else, or was finished with other faces.
        Corrupt: ``out`` is finished and damaged.
        DataError: the source holds no pictures, or something that cannot be catalogued.
        Missing: the source, or a folder given in ``tombstones``, does not exist.
    """
    source_address, out = storage.absolute(config.source), storage.absolute(config.out)
    source = catalogue.scan(source_address, config.person_level, config.unlabelled)
    namespace = config.namespace or source.name
    splits = _Splits(config)
    with closing(scanning.tables(source, namespace, config)) as scanned:
        erased = _Erased(config, out, namespace, source.root)
        found = _listed(scanned, erased, splits)
        first = next(found, None)
        if first is None:
            raise _nothing(source_address, erased.count, source)
        tables = chain([first], found)
        plan = {"root": source.root, "namespace": namespace} | ({"unlabelled": True} if source.unlabelled else {})
        done = manifest.begin(out, "faces", plan)
        if not done:
            with lease.held(out) as held:
                done = manifest.begin(out, "faces", plan)  # another run may have finished before the lease was ours
                if not done:
                    elsewhere = Elsewhere(source.root)
                    tables_held = elsewhere.over(_while_held(tables, held))
                    content = plan | catalogue.write(out, tables_held, namespace, source.notes, source.unlabelled)
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
    for told in _notices(source.notes):
        say(told)
    answer = {"faces": out, **{name: content[name] for name in ("rows", "identities", "splits")}}
    if source.unlabelled:
        answer["unnamed"] = content["unnamed"]
        if named := content["rows"] - content["unnamed"]:
            say(f"{named} of {content['rows']} faces keep the name that their column or sidecar gives them")
    return answer | ({"erased": erased.count} if erased.count else {})


def is_current(config: CatalogueConfig) -> bool:
    """Whether a finished ``out`` lists what a catalogue of the source would list now. The source is scanned; nothing is
    written.

    Raises:
        Missing, Unfinished, Corrupt: ``out`` is not finished, or damaged; else as ``run``.
    """
    done = manifest.read(storage.absolute(config.out), "faces")
    source = catalogue.scan(storage.absolute(config.source), config.person_level, config.unlabelled)
    namespace = config.namespace or source.name
    here = {"root": source.root, "namespace": namespace, "unlabelled": source.unlabelled}
    if {name: done.content.get(name, False) for name in here} != here:
        return False
    with closing(scanning.tables(source, namespace, config)) as scanned:
        erased = _Erased(config, done.uri, namespace, source.root)
        digest, _ = _digest(_listed(scanned, erased, _Splits(config)))
        return digest == str(done.content["rows_digest"])


def _listed(scanned: Iterator[pa.Table], erased: "_Erased", splits: "_Splits") -> Iterator[pa.Table]:
    """The rows that a catalogue has of what was scanned; no table is empty."""
    for table in map(erased.filter, scanned):
        if table.num_rows:
            yield catalogue.with_splits(table, splits.of(table))


def _nothing(address: str, erased: int, source: Source) -> DataError:
    but = f" but the {erased} that were erased" if erased else ""
    lines = "".join(f"; {ignored.line(what, count)}" for what, count in sorted(source.ignored.items()) if what != TWINS)
    expected = "pictures" if source.unlabelled else "one folder of pictures per person"
    return DataError(f"{address} holds no pictures{but}; expected {expected}{lines}")


def _notices(notes: Notes) -> Iterator[str]:
    """What was noted while scanning, one sentence per kind."""
    if twins := notes.ignored.get(TWINS, 0):
        yield (
            f"{twins} pictures have a twin whose name differs only in the ending, so their keys contain the ending; "
            f"the first of {', '.join(keys.IMAGE_ENDINGS[:3])}, … keeps the plain key"
        )
    for what, count in sorted(notes.ignored.items()):
        if what != TWINS:
            yield ignored.line(what, count)
    if overruled := notes.folders.overruled:
        yield (
            f"sidecars, not folders, name the people in {len(overruled)} folders ({first_few(overruled)}); "
            f"--person-level takes the folders' names"
        )
    if notes.alike:
        pairs = [f"{one!a} and {two!a}" for one, two in notes.alike]
        yield (
            f"{len(notes.alike)} identities differ from another only in case or Unicode form ({first_few(pairs)}), so "
            f"that one person can be in two splits; if they are one person, rename one"
        )


def _while_held(tables: Iterator[pa.Table], held: Lease) -> Iterator[pa.Table]:
    """The same tables. A run that was taken over stops here, before it replaces a part of the run that took over."""
    for table in tables:
        held.confirm()
        yield table
    held.confirm()


def _require_same_rows(done: Manifest, tables: Iterator[pa.Table]) -> None:
    digest, count = _digest(tables)
    if digest != done.content["rows_digest"]:
        raise Occupied(
            f"{done.uri} is finished and lists other faces than the source now has, or other splits, or faces that "
            f"were erased since ({done.content['rows']} rows there, {count} here); give --out another folder"
        )


def _digest(tables: Iterator[pa.Table]) -> tuple[str, int]:
    """The digest of the rows of some tables, and their number."""
    digest = Digest()
    count = sum(table.num_rows for table in digest.over(tables))
    return digest.hexdigest(), count


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
        self._unseen = set(self._given)

    def of(self, table: pa.Table) -> dict[str, str]:
        """{identity: split}, for the people of these faces and maybe others."""
        names = pc.unique(table["identity"]).drop_null().to_pylist()
        if self._config.splits:
            people = set(map(naming.compared, names))
            self._unlisted |= people - self._given.keys()
            self._unseen -= people
            return self._given
        if self._config.valid_fraction:
            shares = {"train": 1 - self._config.valid_fraction, "valid": self._config.valid_fraction}
            return catalogue.seeded_splits(names, shares, self._config.seed)
        return {}

    def report(self) -> None:
        """Report people who are only in the source or only in the file. Raises DataError if nobody is in both."""
        if self._unlisted:
            first, count = min(self._unlisted), len(self._unlisted)
            near = self._near(self._unlisted, self._unseen)
            if len(self._unseen) == len(self._given):
                raise DataError(f"{self._config.splits} names none of the source's {count} people ({first}, …){near}")
            say(f"{count} people are not in {self._config.splits} and get no split ({first}, …){near}")
        if self._unseen:
            first, count = min(self._unseen), len(self._unseen)
            say(f"{count} of the {len(self._given)} people in {self._config.splits} are not in the source ({first}, …)")

    def _near(self, unlisted: set[str], unseen: set[str]) -> str:
        """A hint if people differ from those in the file only in case."""
        form_of = {naming.folded(name): name for name in unseen}
        pairs = [(name, form_of[form]) for name in unlisted if (form := naming.folded(name)) in form_of]
        return f"; {len(pairs)} differ only in case ({min(pairs)[0]}, there {min(pairs)[1]})" if pairs else ""
