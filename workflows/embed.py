"""``likeness embed``: Faces and a Model to Embeddings, on Ray, a unit of rows at a time.

Inputs = embedded + quarantined, always. A job killed anywhere and started again continues with the units that are
not done; what a unit is and how it is committed is in ``parts.units``.
"""

import time
from collections import Counter, deque
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import ray
import torch
from ray.exceptions import RayError

from metric_core import manifest, storage
from metric_core.data.faces import Faces
from metric_core.errors import ConfigError, Corrupt, TooManyBadImages
from metric_core.model.bundle import Model
from metric_core.model.embedder import Embedder
from workflows.parts import console, lease, models, provenance, runtime, units
from workflows.parts.console import say
from workflows.parts.runtime import RunOptions
from workflows.parts.units import Record, Unit

IN_FLIGHT = 2
"""Units an actor holds: one it works on, and the next so that it never waits."""


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(RunOptions):
    """Embed every face of a catalogue."""

    faces: str
    """The Faces artefact to embed."""
    model: str
    """Model folder, object-store address, or MLflow model URI (models:/NAME@ALIAS)."""
    out: str
    """Folder or object-store address of the Embeddings to write."""
    split: str | None = None
    """Embed only this split; default: all faces."""
    dtype: Literal["float32", "float16"] = "float32"
    """Stored components; float16 halves the bytes."""
    unit_size: int = 2048
    """Faces a unit of work, which is also a part: what is lost when a worker dies."""
    batch: int = 128
    """Faces a forward pass."""
    actors: int | None = None
    """Embedding processes; default: one a CPU, or one a GPU with --gpu."""
    gpu: bool = False
    """Give each actor a GPU."""
    max_bad_fraction: float = 0.01
    """Largest share of faces that may end in the quarantine before the job stops."""

    def __post_init__(self) -> None:
        problems = []
        for name in ("unit_size", "batch"):
            if getattr(self, name) < 1:
                problems.append(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.actors is not None and self.actors < 1:
            problems.append(f"actors is {self.actors}; it must be 1 or more")
        if not 0 <= self.max_bad_fraction <= 1:
            problems.append(f"max_bad_fraction is {self.max_bad_fraction}; it must be a share, 0 to 1")
        if problems:
            raise ConfigError.of(problems)


def run(config: EmbedConfig) -> dict[str, Any]:
    """Embed what is not embedded yet, and write the manifest once the books balance.

    Returns:
        {embeddings, embedded, quarantined, reused, seconds, images_per_second}; ``reused`` counts faces of units
        that an earlier run had finished.

    Raises:
        TooManyBadImages: more than ``max_bad_fraction`` unreadable; what was done stays.
    """
    out = storage.absolute(config.out)
    faces = Faces.open(config.faces)
    table = faces.select(config.split)
    model = models.load(config.model)
    plan = {
        "faces_digest": faces.manifest.digest,
        "split": config.split,
        "fingerprint": model.fingerprint,
        "unit_size": config.unit_size,
        "dtype": config.dtype,
    }
    done = manifest.begin(out, "embeddings", plan)
    if done:
        say(f"{out} is finished already; nothing to do")
        content = done.content
        return _result(out, content, reused=content["embedded"] + content["quarantined"], seconds=0.0)
    with runtime.cluster(config), lease.held(out):
        runtime.require_shared([out])
        return _embed(config, out, faces, table, model, plan)


def _embed(
    config: EmbedConfig, out: str, faces: Faces, table: pa.Table, model: Model, plan: dict[str, Any]
) -> dict[str, Any]:
    todo = units.units(table.num_rows, config.unit_size)
    records = {unit: record for unit in todo if (record := units.record_of(out, unit))}
    books = _Books(total=table.num_rows)
    for record in records.values():
        books.enter(record)
    reused = books.done
    if records:
        say(f"continuing: {len(records)} of {len(todo)} units are done already")
    start = time.monotonic()
    spent: Counter[str] = Counter()
    rest = _execute(config, out, faces.root, table, model, [u for u in todo if u not in records])
    with console.bar("embed", table.num_rows, done=reused) as bar, closing(rest):
        books.refuse_bad(config, out)
        for unit, record in rest:
            records[unit] = record
            books.enter(record)
            spent.update(record.seconds)
            rate = (books.done - reused) / (time.monotonic() - start)
            bar.update(books.done, f"{rate:.0f} images/s, {books.reasons.total()} rejects")
            books.refuse_bad(config, out)
    seconds = time.monotonic() - start
    if spent:
        say("time went to " + ", ".join(f"{k} {v / spent.total():.0%}" for k, v in spent.most_common()))
    ordered = [records[unit] for unit in todo]
    content = _content(ordered, books, faces, table, model, plan)
    manifest.write(out, "embeddings", content, provenance.record(seconds=round(seconds, 1), faces=faces.uri))
    return _result(out, content, reused=reused, seconds=seconds)


def _execute(
    config: EmbedConfig, out: str, root: str, table: pa.Table, model: Model, todo: list[Unit]
) -> Generator[tuple[Unit, Record], None, None]:
    """Units and their records as they get done, on a pool of actors that never holds more than it can chew."""
    if not todo:
        return
    there = runtime.gpus() if config.gpu else runtime.cpus()
    count = min(config.actors or there, len(todo))
    if count > there or count < 1:
        raise ConfigError(f"actors is {count} but the cluster has {there} {'GPUs' if config.gpu else 'CPUs'}")
    held = ray.put(_Shared(table, root, model.embedder, out, config))
    # Whatever dies is started again, and its units with it: a unit is harmless to repeat.
    pool = _Embedding.options(  # type: ignore[attr-defined]
        num_cpus=1, num_gpus=1 if config.gpu else 0, max_restarts=-1, max_task_retries=3
    )
    actors = [pool.remote() for _ in range(count)]
    waiting = deque(todo)
    running: dict[Any, tuple[Unit, Any]] = {}
    for actor in actors * IN_FLIGHT:
        if waiting:
            unit = waiting.popleft()
            running[actor.embed.remote(unit, [held])] = (unit, actor)
    try:
        while running:
            ready, _ = ray.wait(list(running))
            unit, actor = running.pop(ready[0])
            if waiting:
                following = waiting.popleft()
                running[actor.embed.remote(following, [held])] = (following, actor)
            yield unit, ray.get(ready[0])
    except GeneratorExit:  # the job stops early: what is being embedded may still be committed
        ray.wait(list(running), num_returns=len(running), timeout=30)
        raise
    except RayError as error:
        raise runtime.cause(error) from error
    finally:
        for actor in actors:
            ray.kill(actor)


@dataclass(frozen=True)
class _Shared:
    """What all units of a job have in common; sent to each node once."""

    table: pa.Table
    root: str
    embedder: Embedder
    out: str
    config: EmbedConfig


@ray.remote
class _Embedding:
    """One process with the model in memory."""

    def __init__(self) -> None:
        self._shared: _Shared | None = None

    def embed(self, unit: Unit, held: list[Any]) -> Record:
        """One unit, embedded and committed; the record of an earlier attempt when it was done before.

        ``held`` comes with every call, not with the constructor, so that a restarted actor gets it anew.
        """
        if self._shared is None:
            self._shared = ray.get(held[0])
            self._shared.embedder.to("cuda" if self._shared.config.gpu else "cpu").eval()
        shared, config = self._shared, self._shared.config
        return units.record_of(shared.out, unit) or units.embed_unit(
            unit,
            shared.table,
            shared.root,
            shared.embedder,
            shared.out,
            dtype=config.dtype,
            batch=config.batch,
            threads=torch.get_num_threads(),
        )


@dataclass
class _Books:
    """Running totals of a job: total = embedded + rejected once it is over."""

    total: int
    embedded: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Rejects by reason."""

    @property
    def done(self) -> int:
        return self.embedded + self.reasons.total()

    def enter(self, record: Record) -> None:
        self.embedded += record.rows
        self.reasons.update(record.reasons)

    def refuse_bad(self, config: EmbedConfig, out: str) -> None:
        if self.reasons.total() > config.max_bad_fraction * self.total:
            shown = ", ".join(f"{name} {count}" for name, count in self.reasons.most_common())
            raise TooManyBadImages(
                f"{self.reasons.total()} of {self.total} faces cannot be embedded ({shown}), more than "
                f"--max-bad-fraction {config.max_bad_fraction:.2%}; see {out}/quarantine; what is done stays; raise "
                f"the limit to go on"
            )


def _content(
    records: list[Record], books: _Books, faces: Faces, table: pa.Table, model: Model, plan: dict[str, Any]
) -> dict[str, Any]:
    if books.done != table.num_rows:
        raise Corrupt(f"{table.num_rows} faces went in, {books.embedded} vectors and {books.reasons} rejects came out")
    return {
        **plan,
        "plan_id": manifest.digest(plan),
        "dim": model.embedder.spec.backbone.dim,
        "namespace": faces.namespace,
        "salts": faces.manifest.content["salts"],
        "parts": [{"name": r.name, "rows": r.rows, "sha256": r.sha256} for r in records],
        "inputs": table.num_rows,
        "embedded": books.embedded,
        "quarantined": books.reasons.total(),
        "reasons": dict(sorted(books.reasons.items())),
    }


def _result(out: str, content: dict[str, Any], *, reused: int, seconds: float) -> dict[str, Any]:
    new = content["inputs"] - reused
    return {
        "embeddings": out,
        "embedded": content["embedded"],
        "quarantined": content["quarantined"],
        "reused": reused,
        "seconds": round(seconds, 2),
        "images_per_second": round(new / seconds, 1) if seconds else 0.0,
    }
