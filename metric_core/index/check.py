"""Checks of an index: are its files what they were, do its vectors find themselves, does it still find what it did.

A damaged or missing file is mended by the job that built the index, to the same digest.
"""

# R: sampled rows.

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from metric_core.errors import Corrupt, IndexBuildError, Missing
from metric_core.index import layout, tuning
from metric_core.index import version as versions
from metric_core.index.layout import Content, Shard
from metric_core.index.search import Index
from metric_core.index.truth import Truth
from metric_core.index.version import Version

_SAMPLE = 256  # rows of a shard that are looked for
MAY_BE_LOST = 0.05
"""Share of the rows that need not be found by their own vectors: coarse codes lose some. Rows in a wrong order would
lose nearly all."""
_TOP, _NPROBE = 10, 8
_DEPTHS = (64, 512, 8192)
"""What one does not find among rows of equal coarse codes, the next may: of 100,000 rows with codes of 2 bytes in eight
shards that are opened as one, 14 % were not among the best 512 by their codes, and all were among the best 8,192."""
_SAME = 2e-3  # a row that was stored in half precision or 8 bits finds itself with at least 1 minus this


def sound_receipt(version: Version, number: int, template: str) -> tuple[Shard, bytes] | None:
    """The receipt of a shard that was started from the template with this sha256, and whose files are all there and
    have their digests, and the probes' neighbours in it; None if it must be built (again)."""
    try:
        found = version.receipt(number)
        if found is not None and found[0].template == template:
            version.require_stored(found[0])
            return found
    except (Missing, Corrupt):  # it is built again, to the same digest
        pass
    return None


def damage(version: Version, content: Content, *, verify: bool = False) -> Iterator[str]:
    """What is missing or damaged of a finished version, one line each.

    Args:
        version: its handle.
        content: of its manifest.
        verify: hash files again that have not changed since they were hashed.
    """
    if problem := version.plan_problem():
        yield f"{problem}; {layout.REMEDY}"
    for number, shard in enumerate(content.shards):
        for ending in shard.files:
            try:
                version.require_file_stored(shard, ending, verify=verify)
            except (Missing, Corrupt) as error:
                yield f"shard {number}: {error}"
        if number < content.inherited:
            continue
        try:
            receipt = version.receipt(number)
            if receipt is None or receipt[0] != shard:
                problem = f"its receipt in {version.uri} is missing or is not the manifest's"
                yield f"shard {number}: {problem}; {layout.REMEDY}"
        except Corrupt as error:
            yield f"shard {number}: {error}"
    if content.shared and version.read(layout.CHOICE) != versions.choice_file(content.choice):
        yield f"{version.file(layout.CHOICE)} is missing or is not the manifest's; {layout.REMEDY}"
    for name in content.files:
        try:
            version.read_checked(content, name)
        except Corrupt as error:
            yield str(error)
    try:
        version.read_masks(content)
    except Corrupt as error:
        yield str(error)


def require_found(index: Index, what: str) -> None:
    """Look for some of the rows by their own vectors.

    Raises:
        IndexBuildError: one does not find itself, or a copy of itself.
    """
    lost, looked = lookup(index)
    if lost > MAY_BE_LOST * looked:
        found = f"{lost} of {looked} sampled vectors do not find themselves"
        raise IndexBuildError(f"{what}: {found}; build the index again")


def lookup(index: Index) -> tuple[int, int]:
    """How many of some rows of every shard do not find themselves in it, or a copy of themselves, and of how many."""
    lost = looked = 0
    for shard, allowed_N in index.restricted:
        alone = replace(index, shards=(shard,), allowed=(allowed_N,))
        spread = [np.linspace(s.start, s.stop - 1, min(len(s), _SAMPLE)) for s in shard.spans]
        at_R = np.unique(np.concatenate(spread).astype(np.int64))
        at_R = at_R if allowed_N is None else at_R[allowed_N[at_R]]
        if not len(at_R):
            continue
        vector_RD = shard.vectors_at(at_R)
        vector_RD /= np.linalg.norm(vector_RD, axis=1, keepdims=True)
        looked += len(at_R)
        for depth in _DEPTHS:
            near = alone.search(vector_RD, _TOP, nprobe=min(_NPROBE, index.nlist or 1), depth=depth)
            own_R = (near.face_id_QK == shard.face_id_N[at_R][:, None]).any(axis=1)
            lost_R = ~(own_R | (near.score_QK[:, -1] >= 1 - _SAME))  # all of the ten may be copies of it
            at_R, vector_RD = at_R[lost_R], vector_RD[lost_R]
            if not len(at_R):
                break
        lost += len(at_R)
    return lost, looked


def remeasured(index: Index, content: Content) -> tuple[float, float]:
    """The identity recall of the stored probes now, and as the manifest has it. Raises Corrupt."""
    data = index.version.read_checked(content, layout.TRUTH)
    point = tuning.measure(index, Truth.parse(data), content.nprobe, content.depth)
    return point.identity, float(content.recall["identity"])
