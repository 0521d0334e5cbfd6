"""Which faces a version hides, and what is left."""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from metric_core.artefacts import tombstones
from metric_core.index import masks


def test_only_faces_that_are_found_until_now_are_present(people, write_index, tmp_path):
    v = people()
    hidden = v.face_id_N[:3]
    version = write_index(tmp_path, v, masked=hidden.tolist())
    wanted_M = np.sort(np.append(v.face_id_N[:8], [1, 2]))
    found = masks.present(version, version.content(), wanted_M)
    np.testing.assert_array_equal(found, np.sort(v.face_id_N[3:8]))
    assert masks.present(version, version.content(), np.empty(0, np.int64)).tolist() == []


def test_erased_faces_and_people_are_found(people, write_index, tmp_path):
    v = people()
    version = write_index(tmp_path / "index", v, masked=v.face_id_N[:1].tolist())
    lists = tombstones.add(str(tmp_path / "tombstones"), "test", face_ids=v.face_id_N[[0, 7]], identities=["p002"])
    elsewhere = tombstones.add(str(tmp_path / "more" / "tombstones"), "other", identities=["p003"])
    found = masks.erased(version, version.content(), [lists, elsewhere])
    np.testing.assert_array_equal(found, np.sort(v.face_id_N[[7, *range(10, 15)]]))
    assert masks.erased(version, version.content(), []).tolist() == []


def test_people_of_whom_nothing_is_left_do_not_count(people, write_index, tmp_path):
    v = people()
    names = pa.array([f"p{n:03d}" for n in range(60)])
    whole = write_index(tmp_path, v)
    assert masks.people(whole, whole.content(), names) == 60
    part = write_index(tmp_path, v, masked=v.face_id_N[3:10].tolist())  # two of p000, all of p001
    assert masks.people(part, part.content(), names) == 59


def test_a_stored_mask_is_read_for_the_shards_that_it_is_about(people, write_index, tmp_path):
    v = people()
    version = write_index(tmp_path, v)
    id_M = np.sort(v.face_id_N[::50])
    entry = masks.store(version, id_M, "gone", 2)
    assert (entry["rows"], entry["why"], entry["shards"]) == (6, "gone", 2)
    found = version.read_masks(replace(version.content(), masks=[entry]))
    assert [one.tolist() for one in found] == [id_M.tolist(), id_M.tolist(), []]
    assert masks.store(version, id_M, "gone", 2) == entry
