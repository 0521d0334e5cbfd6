"""``likeness pipeline``: keeps an index of a source up to date, through the same jobs that the other subcommands run.

Catalogue, delta, embed, add or build, compare, publish, prune: each step looks at what is there and does only what is
missing, so that the same command again says that there is nothing to do, and continues after a kill. Where things lie
is in ``folder``, what follows from it in ``planning``, the steps are in ``steps``.
"""

import time
from contextlib import suppress
from typing import Any

from metric_core import storage
from metric_core.artefacts import manifest
from metric_core.artefacts.faces import Faces
from metric_core.errors import ConfigError, LikenessError
from metric_core.sources import catalogue as sources
from workflows.pipeline import page
from workflows.pipeline.config import PipelineConfig
from workflows.pipeline.folder import Folder
from workflows.pipeline.journal import Journal
from workflows.pipeline.planning import Live, require_same_model
from workflows.pipeline.steps import Steps
from workflows.shared import lease, provenance
from workflows.shared.console import say


def run(config: PipelineConfig) -> dict[str, Any]:
    """Bring the index up to date with the source and the model.

    Returns:
        {work, changed, faces, embeddings, index, version, digest, fingerprint, rows, people, steps: [{name, state,
        note, figures, seconds}], compared: [{name, live, new, allowed, stops, note}], upgrade, page, seconds}:
        ``version`` is the live one and ``digest`` its manifest's; ``faces`` and ``embeddings`` are {address: digest} of
        what it is of; ``compared`` is how it compares with the one before, ``upgrade`` how the scores and answers of
        two models differ, or null.

    Raises:
        GateStopped: the new version finds less than the live one, or too much is gone from the source.
        FingerprintMismatch: the model is not that of the live version, and no upgrade was asked for.
        Occupied: ``work`` holds something else.
        LikenessError: as the jobs.
    """
    start = time.monotonic()
    folder = Folder.read(storage.absolute(config.work))
    fingerprint = _fingerprint(config.model)
    _require_possible(config, folder, fingerprint)
    with (
        lease.held(folder.uri),
        Journal(config, folder.uri.rpartition("/")[2]) as journal,
        # Another run may have changed what is there before the lease was ours.
        Steps(config, Folder.read(folder.uri).sweep(say), fingerprint, journal) as steps,
    ):
        try:
            steps.take()
        except BaseException as error:
            with suppress(OSError, LikenessError):  # the error itself matters more
                live = {"live": steps.live.version.id} if steps.live else {}
                _write_page(steps, f"{type(error).__name__}: see the last step", {"work": folder.uri} | live)
            raise
        result = _result(steps) | {"seconds": round(time.monotonic() - start, 2)}
        if journal.changed:
            _write_page(steps, f"version {result['version']} is live", result)
        else:
            say("nothing to do")
    return result


def show(result: dict[str, Any]) -> str:
    """The result as lines."""
    if not result["changed"]:
        return f"nothing to do: version {result['version']} of {result['index']} is up to date"
    lines = [f"{step['name']:<10} {step['note']}" for step in result["steps"]]
    return "\n".join([*lines, f"live       version {result['version']}", f"page       {result['page']}"])


def _fingerprint(model: str) -> str:
    """That of a model, of which only the manifest is read where it is a folder. Raises Missing or Unfinished."""
    if not model.startswith(("models:/", "runs:/")):
        return str(manifest.read(storage.absolute(model), "model").content["fingerprint"])
    from workflows.shared import models  # torch and MLflow take seconds to import

    return models.load(model).fingerprint


def _require_possible(config: PipelineConfig, folder: Folder, fingerprint: str) -> None:
    """Raises FingerprintMismatch, ConfigError or Missing if the run could only fail; nothing is written."""
    sources.scan(storage.absolute(config.source), config.person_level, config.unlabelled)
    live = Live.of(folder.index)
    require_same_model(live, fingerprint, config.model, upgrade=config.upgrade)
    problems = []
    if config.probes and live and live.fingerprint != fingerprint:
        problems.append("probes are embeddings of one model, and --upgrade compares two; leave them out")
    if folder.faces and config.namespace not in (None, (there := Faces.open(folder.faces[-1].uri).namespace)):
        problems.append(
            f"namespace is {config.namespace!r}, the catalogues in {folder.uri} have {there!r}; leave it out, or give "
            f"another --work"
        )
    if chain := folder.chain(fingerprint):
        problems += [
            f"{name} is {getattr(config, name)}, the embeddings by this model in {folder.uri} have {found}; give that, "
            f"or another --work"
            for name in ("dtype", "precision")
            if (found := chain[-1].manifest.content[name]) != getattr(config, name)
        ]
    if problems:
        raise ConfigError.of(problems)


def _result(steps: Steps) -> dict[str, Any]:
    folder = Folder.read(steps.folder.uri)
    live = Live.of(folder.index)
    assert live is not None, "the steps have published one"
    faces = Faces.open(folder.faces[-1].uri)
    there = storage.exists(folder.page) or steps.journal.changed
    return {
        "work": folder.uri,
        "changed": steps.journal.changed,
        "faces": {faces.uri: faces.manifest.digest},
        "embeddings": {one.manifest.uri: one.manifest.digest for one in folder.chain(steps.fingerprint)},
        "index": folder.index,
        "version": live.version.id,
        "digest": live.digest,
        "fingerprint": live.fingerprint,
        "rows": live.rows,
        "people": live.people,
        "steps": [step.row for step in steps.journal.steps],
        "compared": steps.compared,
        "upgrade": steps.upgrade,
        "page": folder.page if there else None,
    }


def _write_page(steps: Steps, title: str, result: dict[str, Any]) -> None:
    facts = {name: value for name, value in result.items() if isinstance(value, str | int) and name != "changed"}
    for name in ("faces", "embeddings"):
        facts |= result.get(name, {})
    facts |= {"finished": provenance.now(), "source": steps.config.source, "model": steps.config.model}
    text = page.html(title, facts, steps.journal.steps, steps.tables)
    storage.write_bytes(steps.folder.page, text.encode())
