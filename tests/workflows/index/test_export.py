"""``likeness index export``, from a published index to a file that FAISS reads."""

import json
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from support import minted

from metric_core import storage
from workflows import cli
from workflows.index import export
from workflows.index import job as index
from workflows.index.config import ExportConfig, IndexConfig

ROWS = 700


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[str, str, str]:
    """The address of an index with two versions, the live one last, and their ids."""
    root = tmp_path_factory.mktemp("export")
    made = minted.embeddings(root / "embeddings", range(1000, 1000 + ROWS), minted.unit_vectors(ROWS, 16), unit=100)
    out = str(root / "index")
    ids = [
        index.run(IndexConfig(embeddings=made, out=out, spec=spec, shards=3, target_identity_recall=0.5))["version"]
        for spec in ("Flat", "IVF8,PQ8x4fsr,Refine(SQ8)")
    ]
    return out, ids[0], ids[1]


def test_the_live_version_is_exported(
    two: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all.faiss"
    assert cli.main(["index", "export", "--index", two[0], "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["version"], told["rows"], told["spec"]) == (two[2], ROWS, "IVF8,PQ8x4fsr,Refine(SQ8)")
    assert (told["faiss"], told["identities"]) == (str(out), str(tmp_path / "all.identities.parquet"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.faiss", "all.identities.parquet"]
    plain = faiss.read_index(told["faiss"])
    score_QK, face_id_QK = plain.search(minted.unit_vectors(ROWS, 16)[:50], 1)
    assert (face_id_QK[:, 0] == np.arange(1000, 1050)).mean() >= 0.9
    assert np.abs(score_QK[face_id_QK[:, 0] == np.arange(1000, 1050)] - 1).max() < 0.01
    table = pq.read_table(told["identities"])
    assert sorted(table["face_id"].to_pylist()) == list(range(1000, 1000 + ROWS))
    assert all(row["identity"] == f"p{row['face_id'] // 3}" for row in table.to_pylist())


def test_another_version_is_exported_when_it_is_named(two: tuple[str, str, str], tmp_path: Path) -> None:
    told = export.run(ExportConfig(index=two[0], version=two[1], out=str(tmp_path / "flat.faiss")))
    _, face_id_QK = faiss.read_index(told["faiss"]).search(minted.unit_vectors(ROWS, 16), 1)
    assert (face_id_QK[:, 0] == np.arange(1000, 1000 + ROWS)).all()
    assert "nprobe" not in export.show(told)


def test_an_object_store_gets_both_files(two: tuple[str, str, str]) -> None:
    at = "memory://exported/flat.faiss"
    told = export.run(ExportConfig(index=two[0], version=two[1], out=at))
    assert told["faiss"] == at
    with storage.local_copy(at) as path:
        assert faiss.read_index(str(path)).ntotal == ROWS
    assert storage.exists("memory://exported/flat.identities.parquet")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--out", "all.bin"], "out is 'all.bin'; expected a name that ends in .faiss"),
        (["--out", "all.faiss", "--version", "0" * 16], "0000000000000000"),
        (["--out", "all.faiss", "--index", "nowhere"], "nowhere: there is no index"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(
    two: tuple[str, str, str],
    options: list[str],
    line: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["index", "export", "--index", two[0], *options]) != 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert line in told[0]
    assert not list(tmp_path.iterdir())


def test_a_version_of_the_first_format_is_exported_as_well(tmp_path: Path) -> None:
    frozen = Path(__file__).parents[2] / "frozen" / "1" / "index"
    told = export.run(ExportConfig(index=str(frozen), out=str(tmp_path / "all.faiss")))
    plain, table = faiss.read_index(told["faiss"]), pq.read_table(told["identities"])
    assert plain.ntotal == table.num_rows == 32
    assert np.array_equal(faiss.vector_to_array(plain.id_map), table["face_id"].to_numpy())
    vector_ND = faiss.downcast_index(plain.index).reconstruct_n(0, 32)
    score_QK, face_id_QK = plain.search(vector_ND, 2)  # two faces are so alike that either may come first
    assert (face_id_QK == table["face_id"].to_numpy()[:, None]).any(axis=1).all()
    assert np.abs(score_QK[:, 0] - 1).max() < 1e-3
