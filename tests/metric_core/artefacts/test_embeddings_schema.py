"""Parts are plain Parquet: other programs read them without this package and get the same numbers."""

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from support import minted

from metric_core.artefacts.embeddings import Embeddings


@pytest.fixture(params=["float32", "float16"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, np.ndarray]:
    vector_ND = minted.unit_vectors(300, dim=64).astype(request.param)
    return minted.embeddings(tmp_path / request.param, range(300), vector_ND, unit=128), vector_ND


def test_pyarrow_reads_the_folder(made: tuple[str, np.ndarray]) -> None:
    uri, vector_ND = made
    table = pyarrow.dataset.dataset(sorted(str(path) for path in Path(uri).glob("part-*"))).to_table()
    assert table["face_id"].to_pylist() == list(range(300))
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(flat.reshape(300, 64), vector_ND)


def test_pandas_reads_a_part(made: tuple[str, np.ndarray]) -> None:
    uri, vector_ND = made
    frame = pd.read_parquet(Path(uri, "part-000000.parquet"))
    assert list(frame.columns) == ["face_id", "identity", "view", "embedding", "norm"]
    assert frame["identity"][5] == "p1"
    np.testing.assert_array_equal(np.stack(frame["embedding"].to_list()), vector_ND[:128])


def test_duckdb_queries_the_folder(made: tuple[str, np.ndarray]) -> None:
    uri, vector_ND = made
    with duckdb.connect() as database:
        parts = f"read_parquet('{uri}/part-*.parquet')"
        rows = database.execute(f"SELECT face_id, identity, embedding, norm FROM {parts} ORDER BY face_id").fetchall()
        tags = f"read_parquet('{uri}/tags/*.parquet')"
        lost = database.execute(f"SELECT count(*) FROM {tags} ANTI JOIN {parts} USING (face_id)").fetchall()
    assert [row[0] for row in rows] == list(range(300))
    assert (rows[7][1], rows[7][3]) == ("p2", 1.0)
    np.testing.assert_array_equal(np.array([row[2] for row in rows], vector_ND.dtype), vector_ND)
    assert lost == [(0,)], "every input face was embedded"


def test_float16_halves_the_bytes(tmp_path: Path) -> None:
    vector_ND = minted.unit_vectors(4096, dim=128)
    sizes = {}
    for dtype in ("float32", "float16"):
        uri = minted.embeddings(tmp_path / dtype, range(4096), vector_ND.astype(dtype), unit=4096)
        sizes[dtype] = sum(path.stat().st_size for path in Path(uri).glob("part-*"))
        again = Embeddings.open(uri).load().embedding_ND
        cosine = np.einsum("nd,nd->n", again, vector_ND) / np.linalg.norm(again, axis=1)
        assert cosine.min() > 0.9999
    assert 0.45 < sizes["float16"] / sizes["float32"] < 0.55


def test_a_usual_unit_is_one_row_group(tmp_path: Path) -> None:
    """Readers of a few columns fetch one range per column and group: more groups would be more round trips."""
    uri = minted.embeddings(tmp_path / "e", range(2048), minted.unit_vectors(2048), unit=2048)
    (part,) = Path(uri).glob("part-*")
    assert pq.read_metadata(part).num_row_groups == 1
