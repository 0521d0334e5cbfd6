"""``likeness embed``: Faces and a Model to Embeddings, on Ray, a unit of rows at a time.

Inputs = embedded + quarantined, always. A job killed anywhere and started again continues with the units that are
not done; what a unit is and how it is committed is in ``parts.units``, what the processes do with it in
``parts.embedding``, and how it gets to them in ``parts.flow``.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from metric_core import manifest, storage
from metric_core.data.faces import Faces
from metric_core.errors import ConfigError, Corrupt
from metric_core.manifest import Manifest
from metric_core.model.bundle import Model
from workflows.embed_config import EmbedConfig
from workflows.parts import books, console, embedding, lease, models, provenance, runtime, units
from workflows.parts.books import Books, Pools
from workflows.parts.console import say
from workflows.parts.embedding import Embedding, Sample, Setup
from workflows.parts.flow import IN_FLIGHT, Flow
from workflows.parts.lease import Lease
from workflows.parts.ledger import Ledger
from workflows.parts.units import Unit

MIN_COSINE = 0.9999
"""To float32, that every sampled face's vector keeps in a faster precision."""
SAMPLES = 4
"""Units of which a batch is sampled, spread over the catalogue."""
LOG_EVERY_S = 10.0
"""Between two points of the curves in MLflow."""


@dataclass(frozen=True)
class _Job:
    """What a run is about."""

    config: EmbedConfig
    setup: Setup
    model: Model
    units: list[Unit]
    total: int
    """Faces that go in."""
    begun: float
    """On the monotonic clock."""

    @property
    def plan(self) -> dict[str, Any]:
        """What the result is a pure function of; its digest is the plan id."""
        return {
            "faces_digest": self.setup.faces.manifest.digest,
            "split": self.config.split,
            "fingerprint": self.model.fingerprint,
            "preprocessing": asdict(self.model.embedder.spec.preprocessing),
            "unit_size": self.config.unit_size,
            "dtype": self.config.dtype,
            "precision": self.config.precision,
        }


def run(config: EmbedConfig) -> dict[str, Any]:
    """Embed what is not embedded yet, and write the manifest once the books balance.

    Returns:
        {embeddings, embedded, quarantined, reused, seconds, startup_seconds, images_per_second}; ``reused`` counts
        faces that an earlier run had finished, ``seconds`` start when the first actor is ready. With ``dry_run``
        {units, images, bytes, seconds, images_per_second, slowest[, cost]}, estimated.

    Raises:
        TooManyBadImages: more than ``max_bad_fraction`` unreadable; what was done stays.
        ConfigError: there is no such split, too few CPUs or GPUs, or ``precision`` changes the vectors too much.
    """
    job = _job(config)
    if config.dry_run:
        with runtime.cluster(config):
            return _estimated(job)
    out = job.setup.out
    before = manifest.begin(out, "embeddings", job.plan)
    if before and not (config.retry_quarantined and before.content["quarantined"]):
        say(f"{out} is finished already; nothing to do")
        return _result(out, before.content, fresh=0, seconds=0.0, startup=0.0)
    with runtime.cluster(config), lease.held(out) as held:
        runtime.require_shared([out])
        return _embed(job, before, held)


def _job(config: EmbedConfig) -> _Job:
    begun = time.monotonic()
    faces, model = Faces.open(config.faces), models.load(config.model)
    setup = Setup(
        faces=faces,
        embedder=model.embedder,
        out=storage.absolute(config.out),
        split=config.split,
        dtype=config.dtype,
        precision=config.precision,
        batch=config.batch,
        device="cuda" if config.gpu else "cpu",
    )
    return _Job(config, setup, model, units.units(faces.parts, config.unit_size), faces.count(config.split), begun)


def _embed(job: _Job, before: Manifest | None, held: Lease) -> dict[str, Any]:
    config, out = job.config, job.setup.out
    ledger = Ledger(out, job.units)
    todo = ledger.todo(config.retry_quarantined)
    again = {unit.number for unit in todo if unit.retry}
    tally = Books(job.total, _pools(config, len(todo)))
    for unit, record, last in ledger.runs:
        tally.enter(record, last=last and unit.number not in again)
    reused = tally.done
    if len(todo) < len(job.units):
        say(f"continuing: {len(job.units) - len(todo)} of {len(job.units)} units are done already")
    seconds = startup = 0.0
    tally.refuse_bad(config.max_bad_fraction, out)
    if todo:
        startup, seconds = _execute(job, todo, ledger, tally, held)
        say(tally.breakdown())
    content = _content(job, ledger, tally)
    held.confirm()
    made = provenance.record(seconds=round(seconds, 1), faces=job.setup.faces.uri)
    if before:
        manifest.replace(before, content, made)
    else:
        manifest.write(out, "embeddings", content, made)
    ledger.sweep()
    return _result(out, content, fresh=tally.done - reused, seconds=seconds, startup=startup)


def _execute(job: _Job, todo: list[Unit], ledger: Ledger, tally: Books, held: Lease) -> tuple[float, float]:
    """Work off ``todo``, entering every unit; seconds until the first actor was ready, and from then on."""
    config, pools = job.config, tally.pools
    shared = ray.put(job.setup)
    _check_precision(config, shared, todo)
    decode = (lambda unit: _decode.remote(shared, unit)) if pools.decoders else None
    flow = Flow(lambda: _actor(config, shared), pools.actors, decode, pools.decoders)
    results = closing(flow.run(todo))
    with _tracked(job, tally) as log, console.bar("embed", job.total, done=tally.done) as bar, results as done:
        for unit, record in done:
            ledger.enter(unit, record)
            tally.enter(record, fresh=True)
            bar.update(tally.done, tally.note(flow.elapsed))
            log(flow.elapsed)
            tally.refuse_bad(config.max_bad_fraction, job.setup.out)
            held.check()
    return time.monotonic() - job.begun - flow.elapsed, flow.elapsed


def _actor(config: EmbedConfig, shared: Any) -> Any:
    # Not restarted by Ray: a unit that was lost goes to whichever actor is free, not to the one that comes back.
    gpus = config.gpu_per_actor if config.gpu else 0
    how = {"num_cpus": 1, "num_gpus": gpus, "max_concurrency": IN_FLIGHT, "runtime_env": runtime.KEEP_MEMORY}
    return ray.remote(Embedding).options(**how).remote(shared)


@ray.remote
def _decode(setup: Setup, unit: Unit) -> list[embedding.Batch]:
    return list(embedding.batches(setup, unit))


def _pools(config: EmbedConfig, most: int) -> Pools:
    """How many processes of each kind. Raises ConfigError when the cluster has not room for them."""
    cpus, gpus = runtime.cpus(), runtime.gpus()
    room = int(gpus / config.gpu_per_actor + 1e-9) if config.gpu else cpus - (config.decoders or 0)
    actors = config.actors or max(1, room)
    decoders = config.decoders if config.decoders is not None else max(0, cpus - actors) if config.gpu else 0
    if config.gpu and actors > room:
        raise ConfigError(f"actors is {actors} at {config.gpu_per_actor} GPUs each but the cluster has {gpus} GPUs")
    if actors + decoders > cpus:
        raise ConfigError(f"actors is {actors} and decoders is {decoders} but the cluster has {cpus} CPUs")
    return Pools(min(actors, max(1, most)), decoders)


def _sampled(config: EmbedConfig, shared: Any, todo: list[Unit]) -> Sample:
    """A few batches from all over the catalogue, embedded by one actor."""
    actor = _actor(config, shared)
    try:
        ray.get(actor.ready.remote())
        return ray.get(actor.sample.remote(todo[:: max(1, len(todo) // SAMPLES)][:SAMPLES]))
    except RayError as error:
        raise runtime.cause(error) from error
    finally:
        ray.kill(actor)


def _check_precision(config: EmbedConfig, shared: Any, todo: list[Unit]) -> None:
    if config.precision == "float32":
        return
    sample = _sampled(config, shared, todo)
    if sample.cosine < MIN_COSINE:
        raise ConfigError(
            f"precision {config.precision} changes vectors too much: the lowest cosine to float32 over "
            f"{sample.embedded} faces is {sample.cosine:.6f}, {MIN_COSINE} is needed; use --precision float32"
        )
    say(f"precision {config.precision}: cosine to float32 is {sample.cosine:.6f} or more ({sample.embedded} faces)")


def _estimated(job: _Job) -> dict[str, Any]:
    pools = _pools(job.config, len(job.units))
    sample = _sampled(job.config, ray.put(job.setup), job.units)
    found = books.estimate(sample, job.total, pools, job.config.price_per_hour)
    return {"units": len(job.units), "images": job.total, **asdict(pools), **found}


@contextmanager
def _tracked(job: _Job, tally: Books) -> Iterator[Callable[[float], None]]:
    """Figures to MLflow now and then, and once more at the end, when there is a store for them."""
    uri = job.config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        yield lambda elapsed: None
        return
    from workflows.parts import tracking  # MLflow takes seconds to import

    name = job.setup.out.rsplit("/", 1)[-1]
    tracker = tracking.start(uri, "likeness-embed", name, asdict(job.config), resume=None, verbose=job.config.verbose)
    last = 0.0

    def log(elapsed: float) -> None:
        nonlocal last
        if elapsed - last >= LOG_EVERY_S or tally.done == tally.total:
            last = elapsed
            tracker.log(tally.figures(elapsed), step=tally.done)

    try:
        yield log
    except BaseException as error:
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish("FINISHED")


def _content(job: _Job, ledger: Ledger, tally: Books) -> dict[str, Any]:
    if tally.done != job.total:
        raise Corrupt(f"{job.total} faces went in, {tally.embedded} vectors and {tally.rejected} rejects came out")
    faces = job.setup.faces
    return {
        **job.plan,
        "plan_id": manifest.digest(job.plan),
        "dim": job.model.embedder.spec.backbone.dim,
        "namespace": faces.namespace,
        "salts": faces.manifest.content["salts"],
        **ledger.content(),
        "inputs": job.total,
        "embedded": tally.embedded,
        "quarantined": tally.rejected,
        "reasons": dict(sorted(tally.reasons.items())),
    }


def _result(out: str, content: dict[str, Any], *, fresh: int, seconds: float, startup: float) -> dict[str, Any]:
    return {
        "embeddings": out,
        "embedded": content["embedded"],
        "quarantined": content["quarantined"],
        "reused": content["inputs"] - fresh,
        "seconds": round(seconds, 2),
        "startup_seconds": round(startup, 2),
        "images_per_second": round(fresh / seconds, 1) if seconds else 0.0,
    }
