"""``likeness embed``: Faces and a Model to Embeddings, on Ray, one unit of rows at a time.

Inputs = embedded + quarantined + erased, always: inputs are the rows of the catalogue, or with ``since`` the new or
changed ones; erased faces among them are never embedded. A job that was killed at any moment and is started again
continues with the units that are not done.

Rows and units are determined in ``plan``; units are handed out in ``pool``, embedded in ``worker``, and committed in
``store``.
"""

import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from metric_core.artefacts import manifest
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import JobFailed, Occupied
from workflows.embed import curves, outcome, sample
from workflows.embed.config import EmbedConfig
from workflows.embed.done import DoneUnits, remove_damaged
from workflows.embed.launcher import Launcher, pool_sizes, require_room
from workflows.embed.plan import EmbedPlan
from workflows.embed.pool import ActorPool
from workflows.embed.tally import Tally
from workflows.embed.units import Unit
from workflows.shared import cluster, console, lease, metrics, preflight, provenance
from workflows.shared.console import say
from workflows.shared.lease import Lease


def run(config: EmbedConfig) -> dict[str, Any]:
    """Embed what is not embedded yet, and write the manifest once the tally is complete.

    Returns:
        {embeddings, embedded, quarantined, reused, seconds, startup_seconds, images_per_second}; ``reused`` counts
        faces that an earlier run had finished, ``seconds`` start when the first actor is ready. With ``since`` also
        {unchanged, gone}, if faces are erased also {erased}. With ``dry_run`` the estimate of ``sample.dry_run``.

    Raises:
        TooManyBadImages: more than ``max_bad_fraction`` cannot be embedded; finished units are kept.
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
    out = plan.store.out
    before = _begin(plan) if manifest.begun(out) else None
    if before and _nothing_to_do(config, before):
        return outcome.result(out, before.content)
    with cluster.connected(config):
        require_room(config)
        curves.require_ready(config)
        preflight.require_nodes(out, [plan.setup.faces.uri], plan.setup.faces.first_picture())
        before = before or _begin(plan)
        if before and _nothing_to_do(config, before):  # another run has finished meanwhile
            return outcome.result(out, before.content)
        with lease.held(out) as held:
            if not before:
                _undo_units_of_another_catalogue(plan)
                _undo_damaged_units(plan)
                _undo_units_with_erased(plan)
            work = _Run.of(plan, held)
            seconds = work.embed() if work.todo else 0.0
            startup = time.monotonic() - begun - seconds if work.todo else 0.0
            content = work.finish(before, seconds)
    return outcome.result(out, content, fresh=work.tally.fresh, seconds=seconds, startup=startup)


def _begin(plan: EmbedPlan) -> Manifest | None:
    """Claim the output folder for the plan; returns its manifest if it is finished already."""
    before = manifest.begin(plan.store.out, "embeddings", plan.document)
    unchanged = before and not plan.setup.faces.manifest.predecessors and not before.predecessors
    if before and not (
        (unchanged and before.content["erased_digest"] == plan.setup.selection.erased_digest) or plan.lists_what(before)
    ):
        raise Occupied(
            f"{before.uri} was finished before faces of this catalogue were erased, or before that was lifted, and is "
            f"left as it is; remove them from it with likeness erase --embeddings {before.uri}, or embed what remains "
            f"to another folder, with --since {before.uri} only what that lacks"
        )
    if before and before.predecessors and plan.config.retry_quarantined:
        raise Occupied(
            f"{before.uri} was rewritten when faces were erased, so its quarantine is not tried again in place; embed "
            f"what it lacks to another folder, with --since {before.uri}"
        )
    return before


def _nothing_to_do(config: EmbedConfig, before: Manifest) -> bool:
    """Whether a finished artefact stays as it is, and then says so."""
    if config.retry_quarantined and before.content["quarantined"]:
        return False
    say(f"{before.uri} is finished already; nothing to do")
    return True


def _undo_damaged_units(plan: EmbedPlan) -> None:
    """Undo units whose files or records were damaged since an earlier run; they are done again."""
    for problem in remove_damaged(plan.store, plan.units):
        say(f"{problem.partition(';')[0]}; its unit is done again")


def _undo_units_of_another_catalogue(plan: EmbedPlan) -> None:
    """Undo units that were done before some of their faces were removed from the catalogue."""
    if plan.setup.faces.manifest.predecessors:
        undone = plan.store.discard_others(plan.faces_of_units())
        if undone:
            say(f"{undone} units were done before some of their faces were erased, and are done again without them")


def _undo_units_with_erased(plan: EmbedPlan) -> None:
    """Undo units that were done before one of their faces was erased; they are done again without it."""
    erased_M = plan.setup.selection.erased_M
    undone = sum(plan.store.discard(unit, erased_M) for unit in plan.units_with_erased())
    if undone:
        say(f"{undone} units were done before some of their faces were erased, and are done again without them")


def _tally_of(plan: EmbedPlan, done: DoneUnits, todo: list[Unit]) -> Tally:
    """The tally of earlier runs; rejects that this run will retry do not count."""
    sizes = pool_sizes(plan.config, len(todo))
    tally = Tally(plan.total, sizes, plan.setup.selection.unchanged)
    again = {unit.number for unit in todo if unit.retry}
    for unit, record, last in done.runs():
        tally.add(record, last=last and unit.number not in again)
    return tally


@dataclass(frozen=True)
class _Run:
    """One run of the job while it holds the lease of the output folder."""

    plan: EmbedPlan
    held: Lease
    done: DoneUnits
    todo: list[Unit]
    tally: Tally

    @classmethod
    def of(cls, plan: EmbedPlan, held: Lease) -> "_Run":
        """Find what earlier runs have done. Raises TooManyBadImages if their rejects are too many."""
        done = DoneUnits(plan.store, plan.units)
        todo = done.todo(plan.config.retry_quarantined)
        run = cls(plan, held, done, todo, _tally_of(plan, done, todo))
        if len(todo) < len(plan.units):
            say(f"continuing: {len(plan.units) - len(todo)} of {len(plan.units)} units are done already")
        run.require_few_rejects()
        return run

    def require_few_rejects(self) -> None:
        """Raises TooManyBadImages if more than ``max_bad_fraction`` of the faces are in the quarantine."""
        self.tally.require_few_rejects(self.plan.config.max_bad_fraction, self.plan.store.quarantine)

    def embed(self) -> float:
        """Have ``todo`` embedded and committed; returns the seconds since the first actor was ready."""
        config, sizes, tally = self.plan.config, self.tally.sizes, self.tally
        launcher = Launcher(config, self.plan.setup)
        sample.check_precision(config.precision, launcher, self.todo)
        decode = launcher.decoded if sizes.decoders else None
        pool = ActorPool(launcher.worker, sizes.actors, decode, sizes.decoders, partial(replace, careful=True))
        name = self.plan.store.out.rsplit("/", 1)[-1]
        with (
            curves.logged(config, name, tally) as log,
            console.bar("embed", tally.total, done=tally.done) as bar,
            closing(pool.run(self.todo)) as results,
        ):
            for unit, record in results:
                self.done.add(unit, record)
                tally.add(record, fresh=True)
                bar.update(tally.done, tally.note(pool.elapsed))
                log(pool.elapsed)
                metrics.publish("embed", self.plan.store.out, tally.figures(pool.elapsed) | {"total": tally.total})
                self.require_few_rejects()
                self.held.check()
        seconds = pool.elapsed
        say(sizes.advice(tally.seconds))
        return seconds

    def finish(self, before: Manifest | None, seconds: float) -> dict[str, Any]:
        """Write the manifest, or replace the one from ``before``; returns its content."""
        plan, store, tally = self.plan, self.plan.store, self.tally
        if plan.is_outdated():
            raise JobFailed(
                f"{store.out}: faces were erased meanwhile; start again with the same arguments to leave them out"
            )
        if tally.rejected:
            say(f"{tally.rejected} faces could not be embedded ({tally.reasons_text()}); see {store.quarantine}")
        content = outcome.manifest_content(plan, self.done, tally, store.put_gone(plan.setup.selection.gone_M))
        self.held.confirm()
        since = [source.manifest.uri for source in plan.since]
        made = provenance.record(seconds=round(seconds, 1), faces=plan.setup.faces.uri, since=since)
        if before:
            manifest.replace(before, content, made)
        else:
            manifest.write(store.out, "embeddings", content, made)
        store.sweep(self.done.superseded())
        return content
