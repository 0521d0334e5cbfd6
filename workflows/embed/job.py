"""``likeness embed``: Faces and a Model to Embeddings, on Ray, one unit of rows at a time.

Inputs = embedded + quarantined + erased, always: inputs are the rows of the catalogue, or with ``since`` those that
are new or changed; those of them that are erased are never embedded. A job that was killed anywhere and is started
again continues with the units that are not done.

Which rows and units there are is left to ``plan``, handing units out to ``pool``, embedding one to ``worker``, and
committing it to ``store``.
"""

import time
from contextlib import closing
from typing import Any

from metric_core.artefacts import manifest
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import JobFailed, Occupied
from workflows.embed import curves, outcome, sample
from workflows.embed.config import EmbedConfig
from workflows.embed.done import DoneUnits
from workflows.embed.launcher import Launcher, pool_sizes
from workflows.embed.plan import EmbedPlan
from workflows.embed.pool import ActorPool
from workflows.embed.tally import Tally
from workflows.embed.units import Unit
from workflows.shared import cluster, console, lease, provenance
from workflows.shared.console import say
from workflows.shared.lease import Lease


def run(config: EmbedConfig) -> dict[str, Any]:
    """Embed what is not embedded yet, and write the manifest once the tally is complete.

    Returns:
        {embeddings, embedded, quarantined, reused, seconds, startup_seconds, images_per_second}; ``reused`` counts
        faces that an earlier run had finished, ``seconds`` start when the first actor is ready. With ``since`` also
        {unchanged, gone}, where something is erased also {erased}. With ``dry_run`` the estimate of ``sample.dry_run``.

    Raises:
        TooManyBadImages: more than ``max_bad_fraction`` unreadable; what was done stays.
        FingerprintMismatch: ``since`` holds vectors of another model.
        Occupied: ``out`` holds something else, or was finished before faces were erased.
        ConfigError: there is no such split, ``since`` does not fit, too few CPUs or GPUs, not every node sees the
            files, or ``precision`` changes the vectors too much.
    """
    begun = time.monotonic()
    plan = EmbedPlan.of(config)
    if config.dry_run:
        with cluster.connected(config):
            return sample.dry_run(plan)
    before, out = _begin(plan), plan.store.out
    if before and not (config.retry_quarantined and before.content["quarantined"]):
        say(f"{out} is finished already; nothing to do")
        return outcome.result(out, before.content)
    with cluster.connected(config), lease.held(out) as held:
        cluster.require_shared([plan.setup.faces.uri, out], plan.setup.faces.first_picture())
        if not before:
            _take_back_erased(plan)
        done = DoneUnits(plan.store, plan.units)
        todo = done.todo(config.retry_quarantined)
        tally = _tally_of(plan, done, todo)
        if len(todo) < len(plan.units):
            say(f"continuing: {len(plan.units) - len(todo)} of {len(plan.units)} units are done already")
        tally.require_few_rejects(config.max_bad_fraction, plan.store.quarantine)
        seconds = _embed_units(plan, todo, done, tally, held) if todo else 0.0
        startup = time.monotonic() - begun - seconds if todo else 0.0
        content = _finish(plan, before, done, tally, held, seconds)
    return outcome.result(out, content, fresh=tally.fresh, seconds=seconds, startup=startup)


def _begin(plan: EmbedPlan) -> Manifest | None:
    """Claim the output folder for the plan; returns the manifest when it is finished already."""
    before = manifest.begin(plan.store.out, "embeddings", plan.document)
    if before and before.content["erased_digest"] != plan.setup.selection.erased_digest:
        raise Occupied(
            f"{before.uri} was finished before faces of this catalogue were erased, and is left as it is; embed what "
            f"remains to another folder, with --since {before.uri} only what that lacks"
        )
    return before


def _take_back_erased(plan: EmbedPlan) -> None:
    """Undo units that were done before one of their faces was erased; they are done again without it."""
    erased_M = plan.setup.selection.erased_M
    taken_back = sum(plan.store.discard(unit, erased_M) for unit in plan.units_with_erased())
    if taken_back:
        say(f"{taken_back} units were done before some of their faces were erased, and are done again without them")


def _tally_of(plan: EmbedPlan, done: DoneUnits, todo: list[Unit]) -> Tally:
    """What earlier runs have done; rejects that this run will retry do not count."""
    sizes = pool_sizes(plan.config, len(todo))
    tally = Tally(plan.total, sizes, plan.setup.selection.unchanged)
    again = {unit.number for unit in todo if unit.retry}
    for unit, record, last in done.runs():
        tally.add(record, last=last and unit.number not in again)
    return tally


def _embed_units(plan: EmbedPlan, todo: list[Unit], done: DoneUnits, tally: Tally, held: Lease) -> float:
    """Have ``todo`` embedded and committed; returns the seconds that it took from when the first actor was ready."""
    config, store, sizes = plan.config, plan.store, tally.sizes
    launcher = Launcher(config, plan.setup)
    sample.check_precision(config.precision, launcher, todo)
    pool = ActorPool(launcher.worker, sizes.actors, launcher.decoded if sizes.decoders else None, sizes.decoders)
    name = store.out.rsplit("/", 1)[-1]
    with (
        curves.logged(config, name, tally) as log,
        console.bar("embed", tally.total, done=tally.done) as bar,
        closing(pool.run(todo)) as results,
    ):
        for unit, record in results:
            done.add(unit, record)
            tally.add(record, fresh=True)
            bar.update(tally.done, tally.note(pool.elapsed))
            log(pool.elapsed)
            tally.require_few_rejects(config.max_bad_fraction, store.quarantine)
            held.check()
    seconds = pool.elapsed
    say(sizes.advice(tally.seconds))
    return seconds


def _finish(
    plan: EmbedPlan, before: Manifest | None, done: DoneUnits, tally: Tally, held: Lease, seconds: float
) -> dict[str, Any]:
    """Write the manifest, or replace the one from before; returns its content."""
    store = plan.store
    if plan.is_outdated():
        raise JobFailed(
            f"{store.out}: faces were erased meanwhile; start again with the same arguments to leave them out"
        )
    if tally.rejected:
        say(f"{tally.rejected} faces could not be embedded ({tally.reasons_text()}); see {store.quarantine}")
    content = outcome.manifest_content(plan, done, tally, store.put_gone(plan.setup.selection.gone_M))
    held.confirm()
    since = [source.manifest.uri for source in plan.since]
    made = provenance.record(seconds=round(seconds, 1), faces=plan.setup.faces.uri, since=since)
    if before:
        manifest.replace(before, content, made)
    else:
        manifest.write(store.out, "embeddings", content, made)
    store.sweep(done.superseded())
    return content
