"""``likeness embeddings check``: every byte, vector and count of embeddings, and whether they cover a catalogue."""

from typing import Any

from metric_core.artefacts import audit, delta, tombstones
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.faces import Faces
from metric_core.errors import Corrupt, DataError
from workflows.embeddings.config import CheckConfig


def run(config: CheckConfig) -> dict[str, Any]:
    """Check.

    Returns:
        {rows, parts, inputs, embedded, quarantined, erased} and, with ``faces``, coverage: {faces, embedded,
        quarantined, erased, missing, surplus}

    Raises:
        Corrupt: it lists everything that is wrong, one line per problem.
        DataError: nothing is wrong, but the embeddings do not cover the catalogue.
    """
    collection = Collection.open(config.embeddings)
    problems = [f"{one.manifest.uri}: {text}" for one in collection.sources for text in audit.problems(one)]
    if problems:
        raise Corrupt("\n".join(problems))
    contents = [source.manifest.content for source in collection.sources]
    totals = {
        name: sum(content[name] for content in contents) for name in ("inputs", "embedded", "quarantined", "erased")
    }
    answer = {"rows": collection.rows, "parts": sum(len(content["parts"]) for content in contents), **totals}
    return answer | {"coverage": _coverage(config, config.faces, collection)} if config.faces else answer


def _coverage(config: CheckConfig, address: str, collection: Collection) -> dict[str, int]:
    faces, split = Faces.open(address), collection.sources[-1].manifest.content["split"]
    erased = tombstones.of(address, config.tombstones)
    selection = delta.select(faces, split, collection.require_whole(), erased)
    quarantined = len(set(collection.quarantined().tolist()) - set(selection.gone_M.tolist()))
    whole = faces.count(split)
    found = {
        "faces": whole,
        "embedded": selection.unchanged,
        "quarantined": quarantined,
        "erased": len(selection.erased_M),
        "missing": selection.count(whole) - len(selection.erased_M) - quarantined,
        "surplus": len(selection.gone_M),
    }
    if found["missing"] or found["surplus"]:
        raise DataError(
            f"{collection.uri} does not cover {address}: {found['missing']} of {whole} faces are new or changed, "
            f"{found['surplus']} are gone or erased; embed the difference with --since {collection.uri}"
        )
    return found
