"""``likeness embed``: Faces and a Model to Embeddings, on Ray, a unit of rows at a time.

Inputs = embedded + quarantined + erased, always: inputs are the rows that the catalogue has, or with ``since`` those
that are new or changed, and what was erased of them is counted apart and never embedded. A job killed anywhere and
started again continues with the units that are not done. Which rows and units there are is in ``embed_plan``, how a
unit is committed in ``parts.units``, what the processes do with it in ``parts.embedding``, and how it gets to them in
``parts.flow``.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any

import ray
from ray.exceptions import RayError

from metric_core.artefacts import manifest
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import ConfigError, Corrupt, JobFailed, Occupied
from workflows.embed import plan, progress, worker
from workflows.embed.config import EmbedConfig
from workflows.embed.plan import Job
from workflows.embed.pool import IN_FLIGHT, Flow
from workflows.embed.progress import Books, Pools
from workflows.embed.records import Ledger
from workflows.embed.units import Unit
from workflows.embed.worker import Embedding, Sample, Setup
from workflows.shared import cluster, console, lease, provenance
from workflows.shared.console import say
from workflows.shared.lease import Lease

MIN_COSINE = 0.9999
"""To float32, that every sampled face's vector keeps in a faster precision."""
SAMPLES = 4
"""Batches that are sampled, of units spread over the catalogue."""
LOG_EVERY_S = 10.0
"""Between two points of the curves in MLflow."""


def run(config: EmbedConfig) -> dict[str, Any]:
    """Embed what is not embedded yet, and write the manifest once the books balance.

    Returns:
        {embeddings, embedded, quarantined, reused, seconds, startup_seconds, images_per_second}; ``reused`` counts
        faces that an earlier run had finished, ``seconds`` start when the first actor is ready. With ``since`` also
        {unchanged, gone}, where something is erased also {erased}. With ``dry_run`` {units, images, bytes, seconds,
        images_per_second, slowest[, cost]}, estimated.

    Raises:
        TooManyBadImages: more than ``max_bad_fraction`` unreadable; what was done stays.
        FingerprintMismatch: ``since`` holds vectors of another model.
        Occupied: ``out`` holds something else, or was finished before faces were erased.
        ConfigError: there is no such split, ``since`` does not fit, too few CPUs or GPUs, not every node sees the
            files, or ``precision`` changes the vectors too much.
    """
    job = plan.job_of(config)
    if config.dry_run:
        with cluster.connected(config):
            return _estimated(job)
    out = job.setup.out
    before = manifest.begin(out, "embeddings", job.plan)
    if before and before.content["erased_digest"] != job.setup.selection.erased_digest:
        raise Occupied(
            f"{out} was finished before faces of this catalogue were erased, and is left as it is; embed what remains "
            f"to another folder, with --since {out} only what that lacks"
        )
    if before and not (config.retry_quarantined and before.content["quarantined"]):
        say(f"{out} is finished already; nothing to do")
        return _result(out, before.content, fresh=0, seconds=0.0, startup=0.0)
    with cluster.connected(config), lease.held(out) as held:
        cluster.require_shared([job.setup.faces.uri, out], job.setup.faces.first_picture())
        return _embed(job, before, held)


def _embed(job: Job, before: Manifest | None, held: Lease) -> dict[str, Any]:
    config, out = job.config, job.setup.out
    if not before:
        plan.take_back(job)
    ledger = Ledger(out, job.units)
    todo = ledger.todo(config.retry_quarantined)
    again = {unit.number for unit in todo if unit.retry}
    tally = Books(job.total, _pools(config, len(todo)), job.setup.selection.unchanged)
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
    if plan.erasures(config).digest != job.erasures:
        raise JobFailed(f"{out}: faces were erased meanwhile; start again with the same arguments to leave them out")
    if tally.rejected:
        say(f"{tally.rejected} faces could not be embedded ({tally.told()}); see {out}/quarantine")
    content = _content(job, ledger, tally, plan.put_gone(job))
    held.confirm()
    since = [source.manifest.uri for source in job.since.sources] if job.since else []
    made = provenance.record(seconds=round(seconds, 1), faces=job.setup.faces.uri, since=since)
    if before:
        manifest.replace(before, content, made)
    else:
        manifest.write(out, "embeddings", content, made)
    ledger.sweep()
    return _result(out, content, fresh=tally.done - reused, seconds=seconds, startup=startup)


def _execute(job: Job, todo: list[Unit], ledger: Ledger, tally: Books, held: Lease) -> tuple[float, float]:
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
    how = {"num_cpus": 1, "num_gpus": gpus, "max_concurrency": IN_FLIGHT, "runtime_env": cluster.KEEP_MEMORY}
    return ray.remote(Embedding).options(**how).remote(shared)


@ray.remote
def _decode(setup: Setup, unit: Unit) -> list[worker.Batch]:
    return list(worker.batches(setup, unit))


def _pools(config: EmbedConfig, most: int) -> Pools:
    """How many processes of each kind. Raises ConfigError when the cluster has not room for them."""
    cpus, gpus = cluster.cpus(), cluster.gpus()
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
        step = max(1, len(todo) // SAMPLES)
        spread = [unit for first in range(step) for unit in todo[first::step]]
        sample: Sample = ray.get(actor.sample.remote(spread, SAMPLES))
        return sample
    except RayError as error:
        raise cluster.cause(error) from error
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


def _estimated(job: Job) -> dict[str, Any]:
    pools = _pools(job.config, len(job.units))
    sample = _sampled(job.config, ray.put(job.setup), job.units)
    found = progress.estimate(sample, job.total, pools, job.config.price_per_hour)
    return {"units": len(job.units), "images": job.total, **asdict(pools), **found}


@contextmanager
def _tracked(job: Job, tally: Books) -> Iterator[Callable[[float], None]]:
    """Figures to MLflow now and then, and once more at the end, when there is a store for them."""
    uri = job.config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        yield lambda elapsed: None
        return
    from workflows.shared import tracking  # MLflow takes seconds to import

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


def _content(job: Job, ledger: Ledger, tally: Books, gone: dict[str, Any] | None) -> dict[str, Any]:
    if tally.done != job.total:
        raise Corrupt(f"{job.total} faces went in, {tally.embedded} vectors and {tally.rejected} rejects came out")
    faces, selection = job.setup.faces, job.setup.selection
    return {
        **job.plan,
        "plan_id": manifest.digest(job.plan),
        "dim": job.model.embedder.spec.backbone.dim,
        "namespace": faces.namespace,
        "salts": faces.manifest.content["salts"],
        **ledger.content(),
        "gone": gone,
        "unchanged": selection.unchanged,
        "inputs": job.inputs,
        "embedded": tally.embedded,
        "quarantined": tally.rejected,
        "erased": len(selection.erased_M),
        "erased_digest": selection.erased_digest,
        "reasons": dict(sorted(tally.reasons.items())),
    }


def _result(out: str, content: dict[str, Any], *, fresh: int, seconds: float, startup: float) -> dict[str, Any]:
    gone = content["gone"]["rows"] if content["gone"] else 0
    return {
        "embeddings": out,
        "embedded": content["embedded"],
        "quarantined": content["quarantined"],
        **({"unchanged": content["unchanged"], "gone": gone} if content["since"] else {}),
        **({"erased": content["erased"]} if content["erased"] else {}),
        "reused": content["embedded"] + content["quarantined"] - fresh,
        "seconds": round(seconds, 2),
        "startup_seconds": round(startup, 2),
        "images_per_second": round(fresh / seconds, 1) if seconds else 0.0,
    }
