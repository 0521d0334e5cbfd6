"""``likeness index diff``: whose answers differ between two versions of an index."""

from typing import Any

import numpy as np

from metric_core import storage
from metric_core.index import gate
from metric_core.index.search import Index
from metric_core.index.store import IndexStore
from workflows.index.config import DiffConfig


def run(config: DiffConfig) -> dict[str, Any]:
    """Compare the first person of each probe of version ``a``: its stored probes and further rows of it. Versions of
    two models each answer with their own vectors of the faces that both have; their scores are of two scales.

    Returns:
        {index, a, b, probes, differ, right_a, right_b, changes: [{face_id, identity, a, score_a, b, score_b}]}: the
        number of probes, of those whose first person differs, and of those whose own person is first; ``changes`` has
        the first ``top`` that differ, those first whom one version finds and the other does not.

    Raises:
        Missing, Unfinished, Corrupt: a version is not there, or damaged.
    """
    store = IndexStore(storage.absolute(config.index))
    one, other = (Index.open(store.uri, store.version(name).id) for name in (config.a, config.b))
    probes, again = gate.counterparts(one, other, gate.probes_of(one))
    first, second = gate.answers(one, probes), gate.answers(other, again)
    right_Q, now_Q = first.right(probes), second.right(again)
    differ_Q = np.array(first.person_Q.to_pylist(), object) != np.array(second.person_Q.to_pylist(), object)
    at_Q = np.flatnonzero(differ_Q)
    at_Q = at_Q[np.argsort(right_Q[at_Q] == now_Q[at_Q], kind="stable")]
    changes = [
        {
            "face_id": int(probes.face_id_Q[at]),
            "identity": probes.identity_Q[at],
            "a": first.person_Q[at].as_py(),
            "score_a": round(float(first.score_Q[at]), 6),
            "b": second.person_Q[at].as_py(),
            "score_b": round(float(second.score_Q[at]), 6),
        }
        for at in at_Q[: config.top].tolist()
    ]
    return {
        "index": store.uri,
        "a": one.version.id,
        "b": other.version.id,
        "probes": len(probes),
        "differ": int(differ_Q.sum()),
        "right_a": int(right_Q.sum()),
        "right_b": int(now_Q.sum()),
        "changes": changes,
    }


def show(result: dict[str, Any]) -> str:
    """The counts, and the probes whose answers differ as a table."""
    lines = [
        f"{result['differ']:,} of {result['probes']:,} probes find another person first in {result['b']} than in "
        f"{result['a']}; their own person: {result['right_b']:,} beside {result['right_a']:,}"
    ]
    if result["changes"]:
        lines.append(f"{'probe':<20} {'is':<24} {result['a']:<32} {result['b']}")
    for one in result["changes"]:
        found = [f"{one[name] or '-'} ({one[f'score_{name}']:.3f})" for name in ("a", "b")]
        lines.append(f"{one['face_id']:<20} {one['identity'] or '-':<24} {found[0]:<32} {found[1]}")
    return "\n".join(lines)
