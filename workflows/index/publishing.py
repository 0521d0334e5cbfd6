"""Makes a version of an index the live one, unless it finds less than the version that is live now."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from metric_core import storage
from metric_core.artefacts import ids, tombstones
from metric_core.artefacts.collection import Collection
from metric_core.errors import ArtefactError, ConfigError, Corrupt, GateStopped, Missing, Unfinished
from metric_core.index import gate
from metric_core.index.gate import Figure
from metric_core.index.search import Index, check_fingerprint
from metric_core.index.store import IndexStore
from metric_core.index.truth import Probes
from metric_core.index.version import Version
from workflows.index.config import Built, Gated
from workflows.shared import provenance
from workflows.shared.console import say


@dataclass(frozen=True)
class Made:
    """What a job has built, or found to be built already."""

    result: dict[str, Any]
    """of the job, but for the seconds that it took"""
    version: Version | None = None
    """to be published; None if there is nothing new"""
    gone_M: np.ndarray = field(default_factory=lambda: ids.NONE)
    """int64, sorted: faces that are left out on purpose"""


def finished(store: IndexStore, made: Made, how: Built) -> None:
    """As ``publish``, of a version that a job has built; unless the job was asked not to."""
    if made.version is None:
        return
    if how.publish:
        publish(store, made.version, how, made.gone_M)
    else:
        say(f"version {made.version.id} of {store.uri} is finished and not published")


def publish(
    store: IndexStore, version: Version, how: Gated, gone_M: np.ndarray = ids.NONE, *, upgrade: bool = False
) -> list[Figure]:
    """Compare a finished version with the live one, and make it live.

    Args:
        store: the index.
        version: one of its versions.
        how: what may be lost.
        gone_M: int64, sorted: faces that are left out on purpose.
        upgrade: whether it may be of another model than the live one.

    Returns:
        The comparison; nothing if there is nothing to compare with.

    Raises:
        GateStopped: it is worse than the live version, which stays.
        ConfigError, FingerprintMismatch: the probes that are given cannot be looked for.
        Corrupt, Unfinished, Missing: the version is damaged or not there.
    """
    found = [] if (live := _live(store, version)) is None else _compared(live, version, how, gone_M, upgrade)
    stopping = [figure for figure in found if figure.stops]
    if stopping and not how.force:
        of, fell = f"--index {store.uri}", ", ".join(one.name for one in stopping)
        lines = [
            f"version {version.id} is worse than the live one ({fell}), which stays:",
            *table(found),
            f"`likeness index diff {of} --b {version.id}` shows whose answers differ; to make it live all the same: "
            f"`likeness index publish {of} --version {version.id} --force`",
        ]
        raise GateStopped("\n".join(lines))
    if found:
        for line in table(found):
            say(line)
    when = provenance.now()
    store.publish(version, when, [str(figure) for figure in stopping])
    say(f"version {version.id} of {store.uri} is live" + (", by --force" if stopping else ""))
    return found


def table(figures: Sequence[Figure]) -> list[str]:
    """The comparison as lines."""
    return [gate.HEAD, *(str(figure) for figure in figures)]


def require_none_erased(version: Version) -> None:
    """Raises ConfigError if a version holds faces that were erased, by the tombstones beside its Faces."""
    faces = version.faces()
    erased = tombstones.read(tombstones.beside(faces)) if faces else None
    if not erased:
        return
    index = Index.open(version.index_uri, version.id)
    namespace = str(version.manifest().content["namespace"])
    count = 0
    for id_N, code_N in gate.visible(index):
        names = pa.DictionaryArray.from_arrays(pa.array(code_N, mask=code_N < 0), index.names)
        count += int(erased.erased(pa.table({"face_id": id_N, "identity": names}), namespace).sum())
    if count:
        raise ConfigError(
            f"version {version.id} holds {count:,} faces that were erased since it was built; `likeness erase` with "
            f"--index {version.index_uri} removes them from every version"
        )


def _live(store: IndexStore, version: Version) -> Index | None:
    """The live version, if it is another one and can be opened."""
    try:
        live = store.current()
    except (Missing, Unfinished):
        return None
    except Corrupt as error:
        say(f"{error}; there is nothing to compare the new version with")
        return None
    if live == version:
        return None
    try:
        return Index.open(store.uri, live.id)
    except ArtefactError as error:
        say(f"the live version {live.id} is damaged, so the new one is not compared with it: {error}")
        return None


def _compared(live: Index, version: Version, how: Gated, gone_M: np.ndarray, upgrade: bool) -> list[Figure]:
    new = Index.open(version.index_uri, version.id)
    figures = []
    if live.fingerprint != new.fingerprint:
        note = f"model {live.fingerprint[:12]} there, {new.fingerprint[:12]} here"
        figures.append(Figure("model", 1, 0, 0 if upgrade else 1, stops=not upgrade, note=note))
    probes = gate.probes_of(live)
    given = None if how.probes is None else _given(how.probes, live, new)
    return figures + gate.compare(live, new, probes, gone_M, given=given, tolerance=how.tolerance)


def _given(address: str, live: Index, new: Index) -> Probes:
    source = Collection.open(storage.absolute(address))
    for index in (live, new):
        check_fingerprint(index.fingerprint, source.fingerprint, source.uri)
    source.require_named("probes are right or wrong by their names")
    vectors = source.load()
    return Probes(vectors.face_id_N, vectors.identity_N.tolist(), vectors.embedding_ND.astype(np.float32))
