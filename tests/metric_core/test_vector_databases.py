"""The page about vector databases: where the clients are installed, its snippets run and answer as an index does."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import databases, minted, pages

from metric_core import Collection

FROZEN = pages.ROOT / "tests" / "frozen" / "1"


@pytest.fixture(params=databases.NEEDS)
def system(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """What the page's snippets define after they ran on artefacts written once and for all."""
    for module in databases.NEEDS[request.param]:
        pytest.importorskip(module, reason=f"infra/constraints-databases.txt is not installed: {module}")
    folder = tmp_path_factory.mktemp("db")
    for noun in ("model", "embeddings", "delta", "index"):
        shutil.copytree(FROZEN / noun, folder / "runs" / noun)
    shutil.copytree(FROZEN / "pictures", folder / "demo-out" / "pictures")
    monkeypatch.chdir(folder)
    with databases.loaded(request.param) as names:
        yield names


# Local Qdrant says that it has no payload indexes; platformdirs, that XDG_RUNTIME_DIR is not set.
@pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning", "ignore:XDG_RUNTIME_DIR")
def test_every_snippet_runs_and_the_answers_are_the_index_s(
    system: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert system["same"] == len(system["ours"]) == system["later"].rows == 32
    index, known, people = system["index"], system["known"], system["people"]

    names = [str(face_id) for face_id in known.face_id_N]
    matches = index.identify(known.embedding_ND, names, top=8).to_pylist()
    for name, probe_D in zip(names, known.embedding_ND):
        wanted = [match for match in matches if match["query"] == name]
        found = people(probe_D, top=8)
        np.testing.assert_allclose([row[2] for row in found], [match["score"] for match in wanted], atol=1e-6)
        assert {row[0] for row in found} == {match["identity"] for match in wanted}
        face_of = dict(zip(known.face_id_N.tolist(), known.identity_N))
        assert all(face_of[face_id] == identity for identity, face_id, _ in found)

    # A face of 63 bits, and a person whose pictures fill any fixed number of neighbours.
    probe_D = known.embedding_ND[0]
    crowd_ND = np.tile(probe_D, (300, 1))
    largest = 2**63 - 1
    alike = {"fingerprint": index.fingerprint, "identities": ['crowd\'s "é"'] * 300, "unit": 300}
    ids = list(range(largest - 299, largest + 1))
    system["load"](Collection.open(minted.embeddings(tmp_path / "crowd", ids, crowd_ND, **alike)))
    found = people(probe_D, top=3, without=int(known.face_id_N[0]))
    assert len({identity for identity, _, _ in found}) == 3
    assert found[0][0] == 'crowd\'s "é"'
    assert found[0][1] in ids

    # What is deleted is not found.
    system["delete"](np.array(ids))
    assert [row[:2] for row in people(probe_D, top=1)] == [(known.identity_N[0], known.face_id_N[0])]

    # Nor are erased faces and people, once what a collection no longer has was deleted.
    guarded = Collection.open("runs/embeddings,runs/delta").without_erased(str(FROZEN / "erased" / "tombstones"))
    erased = np.setdiff1d(system["ids"](system["later"]), system["ids"](guarded))
    system["delete"](erased)
    left = {row[1] for probe_D in known.embedding_ND for row in people(probe_D, top=8)}
    assert 0 < len(erased) < index.rows
    assert left.isdisjoint(erased.tolist())
    assert {row[0] for row in people(known.embedding_ND[0], top=8)} == set(guarded.load().identity_N)

    stranger = minted.embeddings(tmp_path / "stranger", [1], minted.unit_vectors(1, index.dim), fingerprint="e" * 64)
    with pytest.raises(Exception, match=r"^$|e{64}") as refused:  # Milvus names the collection that it does not have
        system["load"](Collection.open(stranger))
    assert {"AssertionError", "MilvusException"} & {kind.__name__ for kind in type(refused.value).__mro__}
    assert 1 not in {face_id for _, face_id, _ in people(minted.unit_vectors(1, index.dim)[0], top=9)}


def test_the_page_names_the_versions_that_are_pinned() -> None:
    page = (pages.ROOT / "docs" / databases.PAGE).read_text()
    pinned = (pages.ROOT / "infra" / "constraints-databases.txt").read_text()
    versions = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?==(\S+)$", pinned, re.MULTILINE))
    assert len(versions) == 7
    for name, version in versions.items():
        shown = {"milvus-lite": "Milvus Lite"}.get(name, name)
        assert f"{shown} {version}" in page


def test_every_snippet_is_run() -> None:
    assert set(pages.snippets(databases.PAGE)) == {*databases.BEFORE, *databases.NEEDS, *databases.AFTER}
