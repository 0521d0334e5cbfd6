"""The steps of a pipeline, each from what is there to what is missing.

Jobs that do the work are imported when there is some, since torch takes seconds.
"""

from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from metric_core.artefacts import delta, tombstones
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.faces import Faces
from metric_core.errors import GateStopped, Occupied
from metric_core.index.store import IndexStore
from workflows.catalogue import job as catalogue
from workflows.index.config import PruneConfig
from workflows.pipeline import planning, upgrade
from workflows.pipeline.config import PipelineConfig
from workflows.pipeline.folder import Folder, Place, is_of, remove
from workflows.pipeline.journal import Journal, Step
from workflows.pipeline.planning import Live
from workflows.shared import cluster
from workflows.shared.console import say

if TYPE_CHECKING:
    from workflows.index.publishing import Made


class Steps:
    """The steps of a run, which holds the folder's lease. As a context manager it stops the Ray that it has started."""

    def __init__(self, config: PipelineConfig, folder: Folder, fingerprint: str, journal: Journal) -> None:
        self.config, self.folder, self.fingerprint, self.journal = config, folder, fingerprint, journal
        self.live = Live.of(folder.index)
        """The version that was live when the run began."""
        self.compared: list[dict[str, Any]] = []
        """Each figure of the comparison with the version that was live before."""
        self.upgrade: dict[str, Any] | None = None
        self.tables: dict[str, str] = {}
        """For the page."""
        self._ray = ExitStack()

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *error: Any) -> None:
        self._ray.__exit__(*error)

    def take(self) -> None:
        """Take all steps. Raises GateStopped, and else as the jobs."""
        if interrupted := self.folder.interrupted(self.fingerprint):
            with self.journal.step("embed") as step:
                self._embed(step, interrupted[1], "an earlier run was interrupted")
        faces = self._catalogue()
        self._delta(faces)
        if made := self._index(Faces.open(faces.uri)):
            self._publish(made)
        self._prune()

    def _catalogue(self) -> Place:
        """The catalogue of what the source has now."""
        config, known = self.config, self.folder.faces
        with self.journal.step("catalogue") as step:
            namespace = config.namespace
            if known:
                namespace = namespace or Faces.open(known[-1].uri).namespace
                if catalogue.is_current(config.cataloguing(known[-1].uri, namespace)):
                    step.note = "the source has not changed"
                    return known[-1]
            self.journal.begin(step, "the source has changed" if known else "there is none yet")
            found = catalogue.run(config.cataloguing(self.folder.next_faces, namespace))
            step.figures = {"rows": found["rows"], "identities": found["identities"]}
            self._look()
        return self.folder.faces[-1]

    def _delta(self, faces: Place) -> None:
        """Embed what the embeddings lack of the catalogue."""
        chain, opened = self.folder.chain(self.fingerprint), Faces.open(faces.uri)
        with self.journal.step("delta") as step:
            why = "all faces: there are no embeddings by this model"
            if chain:
                if is_of(chain[-1], opened):
                    step.note = "all faces are embedded"
                    return
                picked = delta.select(opened, None, Collection.of(chain), tombstones.read(self.folder.tombstones))
                count = picked.count(0) - len(picked.erased_M)
                gone = len(picked.gone_M)
                step.figures = {"new or changed": count, "unchanged": picked.unchanged, "gone": gone}
                if not count and not gone:
                    step.note = "all faces are embedded"
                    return
                why = f"{count:,} faces are new or have changed, {gone:,} are gone"
            else:
                gone = 0 if self.live is None else len(upgrade.not_listed(self.live, opened))
            step.state, step.note = "done", why
            stop = planning.too_many_gone(gone, self.live, self.config.max_gone)
            if stop and not self.config.force:
                raise GateStopped(stop)
        with self.journal.step("embed") as step:
            self._embed(step, faces, why)

    def _embed(self, step: Step, faces: Place, why: str) -> None:
        """Embed what the embeddings by the model lack of a catalogue, or go on with that."""
        from workflows.embed import job as embed

        out = self.folder.embeddings_of(faces, self.fingerprint)
        since = ",".join(one.manifest.uri for one in self.folder.chain(self.fingerprint)) or None
        self.journal.begin(step, why)
        tombstones.prepare(self.folder.tombstones)  # beside all catalogues: also those that will be pruned are guarded
        self._connect()
        try:
            found = embed.run(self.config.embedding(faces.uri, out, since))
        except Occupied as error:
            raise Occupied(f"{error}; or remove {out}, and its faces are embedded anew") from error
        names = ("embedded", "quarantined", "unchanged", "gone", "erased", "reused", "images_per_second")
        step.figures = {name: found[name] for name in names if name in found}
        self._look()

    def _index(self, faces: Faces) -> "Made | None":
        """A version with all embeddings; None if the live one has them."""
        chain = self.folder.chain(self.fingerprint)
        erased = bool(tombstones.read(self.folder.tombstones))
        plans = [one.plan_id for one in chain]
        way = planning.way(self.live, plans, self.fingerprint, rebuild=self.config.rebuild, erased=erased)
        with self.journal.step("index") as step:
            step.note = way.why
            made = None
            if way.how == "add":
                assert self.live is not None, "there is something to add to"
                made = self._add(step, [one for one in chain if one.plan_id in way.plans], way.why, self.live)
                if made.version in (None, self.live.version):
                    step.state, step.note = "unchanged", "the live version has all that can be found"
                    return None
            if way.how == "build" or (made and made.result["advice"]):
                made = self._build(step, chain, faces, made.result["advice"] if made else way.why)
        return made

    def _add(self, step: Step, layers: list[Embeddings], why: str, live: Live) -> "Made":
        from workflows.index import add

        if any(one.rows for one in layers if one.plan_id not in live.plans):
            self.journal.begin(step, f"adding to version {live.version.id}: {why}")
            self._connect()
        made = add.make(self.config.adding(",".join(one.manifest.uri for one in layers), self.folder.index))
        if made.version not in (None, live.version) and step.state != "done":
            self.journal.begin(step, f"hiding faces in a version beside {live.version.id}: {why}")
        names = ("rows", "people", "added", "erased", "replaced", "gone", "new_bytes", "identity_recall")
        step.figures = {name: made.result[name] for name in names if name in made.result}
        return made

    def _build(self, step: Step, chain: list[Embeddings], faces: Faces, why: str) -> "Made | None":
        from workflows.index import job
        from workflows.index.publishing import Made

        self.journal.begin(step, f"building of everything: {why}")
        made = job.make(self.config.building(",".join(one.manifest.uri for one in chain), self.folder.index))
        names = ("rows", "people", "shards", "bytes", "identity_recall")
        step.figures = {name: made.result[name] for name in names}
        if self.live is None:
            return made
        if made.version == self.live.version:
            step.state, step.note = "unchanged", "the live version is built of everything already"
            return None
        gone_M = upgrade.not_listed(self.live, faces, made.gone_M)
        return Made(made.result, made.version, gone_M)

    def _publish(self, made: "Made") -> None:
        """Compare the new version with the live one, and make it live. Raises GateStopped."""
        from workflows.index import publishing

        assert made.version is not None, "it was built"
        new_model = self.live is not None and self.live.fingerprint != self.fingerprint
        if self.live and new_model:
            with self.journal.step("compare") as step:
                self.journal.begin(step, "the two models on the same faces")
                old = self.folder.of_plans(self.live.plans)
                self.upgrade = upgrade.compared(old, self.folder.chain(self.fingerprint), self.live, made.version)
                step.note = upgrade.summary(self.upgrade)
                step.figures = upgrade.figures(self.upgrade)
                self.tables["The two models"] = upgrade.text(self.upgrade)
        with self.journal.step("publish") as step:
            self.journal.begin(step, f"version {made.version.id}")
            store = IndexStore(self.folder.index)
            try:
                found = publishing.publish(store, made.version, self.config, made.gone_M, upgrade=new_model)
            except GateStopped as error:
                self.tables["Stopped at the gate"] = str(error)
                raise
            self.compared = [asdict(figure) for figure in found]
            forced = ", by --force" if any(figure.stops for figure in found) else ""
            step.note = f"version {made.version.id} is live{forced}"
            if found:
                self.tables["Beside the version before"] = "\n".join(publishing.table(found))

    def _prune(self) -> None:
        """Remove old versions, and the embeddings and catalogues that none is of."""
        store = IndexStore(self.folder.index)
        with self.journal.step("prune") as step:
            versions = store.versions()
            old = [one.id for one in versions if one.finished][: -self.config.keep]
            old = [one.id for one in versions if not one.live and (one.id in old or not (one.finished or one.damaged))]
            if old:
                from workflows.index import prune

                self.journal.begin(step, f"{len(old)} versions")
                found = prune.run(PruneConfig(index=store.uri, version=old))
                step.figures = {"files": found["files"], "bytes": found["bytes"]}
            kept = [planning.of_version(store.version(one.id)) for one in store.versions() if one.finished]
            plans = {plan for one in kept for plan in one.plans}
            catalogues = {one.version.faces() or "" for one in kept}
            left = self.folder.unneeded(plans, catalogues, self.fingerprint)
            if left and not old:
                self.journal.begin(step, "")
            for address in left:
                remove(address)
            names = [address.rpartition("/")[2] for address in left]
            if old or left:
                step.note = f"removed {', '.join([*(f'version {one}' for one in old), *names])}"
                say(step.note)
            self._look()

    def _connect(self) -> None:
        """Ray, for the rest of the run."""
        import ray

        if not ray.is_initialized():
            self._ray.enter_context(cluster.connected(self.config))

    def _look(self) -> None:
        """What lies in the folder now."""
        self.folder = Folder.read(self.folder.uri)
