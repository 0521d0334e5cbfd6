"""Erasing from a version that faces were added to, or hidden in: its truth has fewer probes than it stores."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from support import index_versions

from metric_core.artefacts import manifest
from metric_core.index import erase, layout, truth
from metric_core.index import version as versions
from metric_core.index.corpus import Rows
from metric_core.index.truth import Probes, Truth


def test_where_faces_were_added_the_truth_has_fewer_probes_than_are_stored(
    people: Callable[..., Rows], tmp_path: Path
) -> None:
    version = index_versions.write(tmp_path, people(130), "IVF4,Flat", nprobe=4)
    content = version.content()
    known = Truth.parse(version.read_checked(content, layout.TRUTH))
    hidden, other = known.probes.face_id_Q[:2]
    left_Q = known.probes.face_id_Q != hidden
    fewer = Truth(known.probes.take(left_Q), truth.taken(known.best, left_Q))
    file = version.share(layout.TRUTH, versions.ipc(fewer.to_table()))
    content = replace(content, files=content.files | {layout.TRUTH: file})
    manifest.replace(version.manifest(), asdict(content), {})
    for number, (face_id, gone) in enumerate([(other, [other]), (hidden, [hidden, other])]):
        erase.erase(str(tmp_path), np.array([face_id]), [])
        stored, left = (version.read_checked(version.content(), name) for name in (layout.PROBES, layout.TRUTH))
        expected = np.setdiff1d(known.probes.face_id_Q, gone)
        assert sorted(Probes.parse(stored).face_id_Q) == sorted(expected), number
        assert sorted(Truth.parse(left).probes.face_id_Q) == sorted(np.setdiff1d(expected, hidden))
        assert not np.isin(Truth.parse(left).best.face_id_QW, gone if number else [other]).any()
