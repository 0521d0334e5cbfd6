"""``likeness search``: probes to Matches, the people of an index that look most like them."""

import hashlib
import io
import json
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import ids, manifest, matches, schema
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.faces import Faces
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import ConfigError, Corrupt, Missing, SchemaMismatch
from metric_core.index.search import Index, check_fingerprint
from metric_core.sources.fetching import fetch
from workflows.search import answers, filters
from workflows.search.config import SearchConfig
from workflows.shared import erasures, provenance
from workflows.shared.console import say


def run(config: SearchConfig) -> dict[str, Any]:
    """Search.

    Returns:
        {matches: [{query, rank, identity, face_id, score, accepted}], unreadable: [{query, reason}]}; each match has
        {key}, too, where faces of the index have no name

    Raises:
        FingerprintMismatch: the probes were embedded by another model than the index.
        ConfigError: conditions that no face in the index meets.
    """
    index, conditions = filters.restricted(Index.open(config.index, verify=config.verify), config)
    unreadable: list[dict[str, str]] = []
    source = None
    if config.embeddings:
        source = erasures.without_erased(Collection.open(config.embeddings))
        check_fingerprint(index.fingerprint, source.fingerprint, source.uri)
        table, queries = (
            _search_embeddings(config, index, source),
            erasures.name_in_plans(source, lambda name: _begun_with(config, name)),
        )
    else:
        # Only pictures need a network: torch takes seconds to import, and a search for embeddings does without it.
        from workflows.shared import models, probes

        model = models.load(config.model or "")
        check_fingerprint(index.fingerprint, model.fingerprint, model.uri)
        found = probes.embed(model, config.image)
        unreadable = found.unreadable
        table, queries = index.identify(found.embedding_QD, found.name_Q, config.top), found.digest
    for bad in unreadable:
        say(f"{bad['query']} cannot be searched for: {bad['reason']}")
    plan_of_keys: dict[str, Any] = {}
    if index.unlabelled:
        faces = answers.faces_at_hand(index, config)
        table = answers.with_keys(table, faces) if faces else table
        plan_of_keys = {"keys": faces.manifest.origin if faces else None}
    if config.out:
        plan = {
            "fingerprint": index.fingerprint,
            "version": index.version.id,
            "top": config.top,
            "queries": queries,
            "conditions": conditions,
            **plan_of_keys,
        }
        _write(config, plan, table, storage.absolute(config.out))
    if config.gallery:
        _draw(config, index, table, source, storage.absolute(config.gallery))
    return {"matches": table.to_pylist(), "unreadable": unreadable}


def show(result: dict[str, Any]) -> str:
    """The matches as lines, one block per probe."""
    lines = []
    for match in result["matches"]:
        if match["rank"] == 1:
            lines.append(match["query"])
        lines.append(f"  {match['rank']}. {answers.called(match):<30} {match['score']:.4f}")
    return "\n".join(lines)


def _search_embeddings(config: SearchConfig, index: Index, source: Collection) -> pa.Table:
    parts = [
        index.identify(
            block.embedding_ND,
            [str(face_id) for face_id in block.face_id_N],
            config.top,
            exclude_face_id_Q=block.face_id_N,
        )
        for block in source.iter_vectors()
    ]
    return pa.concat_tables([index.matches.empty_table(), *parts])


def _begun_with(config: SearchConfig, queries: str) -> bool:
    """Whether the Matches were begun for queries of this name."""
    address = storage.join(storage.absolute(config.out), manifest.PLAN) if config.out else None
    if address is None or not storage.exists(address):
        return False
    try:
        return bool(json.loads(storage.read_bytes(address, most=manifest.MOST))["plan"]["queries"] == queries)
    except (ValueError, KeyError, TypeError):  # ``begin`` says what is wrong with it
        return False


def _write(config: SearchConfig, plan: dict[str, Any], table: pa.Table, out: str) -> None:
    """Write the Matches, or only their file again if they are finished and it was damaged."""
    done = manifest.begin(out, "matches", plan)
    name = matches.file(done) if done else matches.FILE
    if done and (problem := _damage(done, table.schema)) is None:
        say(f"{out} is finished already")
        return
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    data, content = sink.getvalue(), plan | {"rows": table.num_rows}
    files = {name: {"sha256": hashlib.sha256(data).hexdigest()}}
    storage.write_bytes(storage.join(out, name), data)
    if not done:
        manifest.write(out, "matches", content, provenance.record(index=config.index), files)
        return
    say(f"{problem}; it is written again")
    if done.files != files:  # written by another version of pyarrow, or with people who were erased since
        manifest.replace(done, content, provenance.record(index=config.index), files)


def _damage(done: Manifest, expected: pa.Schema) -> str | None:
    """What is wrong with the file of finished Matches; None if nothing is."""
    try:
        table = matches.read(done)
        address = storage.join(done.uri, matches.file(done))
        rows = schema.check(table, expected, address).num_rows
        return None if rows == (there := done.content.get("rows")) else f"{address} has {rows} rows, not {there}"
    except (Missing, SchemaMismatch, Corrupt) as error:
        return str(error).partition(";")[0]


def _draw(config: SearchConfig, index: Index, table: pa.Table, source: Collection | None, out: str) -> None:
    from workflows.search import gallery  # imports Pillow, which other searches for embeddings do without

    address = config.faces or index.version.faces()
    if not address:
        raise ConfigError("the index does not say where its Faces are; give --faces for the gallery's pictures")
    indexed = _Pictures(Faces.open(address))
    probe: gallery.Fetch = storage.read_bytes
    if source:
        if not source.faces:
            raise ConfigError(f"{source.uri} does not say where its Faces are; leave out --gallery")
        probe = (indexed if source.faces == address else _Pictures(Faces.open(source.faces))).named
    gallery.draw(table, probe, indexed.of, out)
    say(f"gallery: {out}")


class _Pictures:
    """The pictures of Faces, by face_id."""

    def __init__(self, faces: Faces) -> None:
        self._faces = faces

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        ids_N = self._faces.table["face_id"].to_numpy()
        order_N = np.argsort(ids_N)
        return ids_N[order_N], order_N

    def named(self, query: str) -> bytes:
        """Image bytes of a query whose name is its face_id."""
        return self.of(int(query))

    def of(self, face_id: int) -> bytes:
        """Image bytes of a face. Raises Missing if these Faces do not have it: they may have been catalogued again."""
        ids_N, order_N = self._order
        if not ids.within(np.array([face_id]), ids_N)[0]:
            raise Missing(f"{self._faces.uri} has no face {face_id}")
        row = int(order_N[np.searchsorted(ids_N, face_id)])
        return fetch(self._faces.root, self._faces.table.slice(row, 1).to_pylist()[0])
