"""The scan finds whatever is planted, in every kind of place, and nothing else."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import minted

from metric_core.artefacts import erasing_proof, schema
from metric_core.artefacts.embeddings import REJECTS, to_table
from metric_core.artefacts.erasing import HIDDEN, Target
from metric_core.errors import Corrupt

ID = 5_577_006_791_947_779_410
OTHER = ID + 1
TARGET = Target(np.array([ID]), frozenset({"Ann Lee"}), frozenset({"ann/1", "ann/1.jpg"}))


def scanned(folder: Path, **vectors: dict[bytes, set[bytes]]) -> erasing_proof.Found:
    return erasing_proof.scan(str(folder), TARGET, **vectors)


@pytest.mark.parametrize(
    ("column", "value", "harmless"),
    [
        ("face_id", ID, OTHER),
        ("identity", "Ann Lee", "Ann Leefield"),
        ("key", "ann/1", "ann/11"),
        ("uri", "ann/1.jpg", "ann/1.png"),
        ("query", str(ID), str(OTHER)),
        ("query", "ann/1.jpg", "bob/1.jpg"),
        ("query", "Ann Lee", "Bob"),
    ],
)
def test_columns(tmp_path: Path, column: str, value: object, harmless: object) -> None:
    for name, values in (("1", [harmless, None]), ("2", [None, harmless, value])):
        (tmp_path / name / "tags").mkdir(parents=True)
        pq.write_table(pa.table({column: values}), tmp_path / name / "tags" / "part-000001.g2.parquet")
    assert scanned(tmp_path / "1").total == 0
    assert scanned(tmp_path / "2").places == {f"tags/part: {column}": 1}


def test_metadata_of_a_file(tmp_path: Path) -> None:
    table = pa.table({"face_id": [OTHER]})
    for number, count in ((OTHER, 0), (ID, 1)):
        rejects = json.dumps([[number, "x.jpg", "missing", ""]])
        pq.write_table(table.replace_schema_metadata({REJECTS: rejects}), tmp_path / "part.parquet")
        assert scanned(tmp_path).total == count


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"content": {"salts": {"ann/1": 1, "b": 2}}}, "manifest: salts"),
        ({"plan": {"conditions": {"identities": ["Bob", "Ann Lee"]}}}, "manifest: identities"),
        ({"plan": {"conditions": {"face_ids": [ID]}}}, "manifest: numbers"),
        ({"provenance": {"command": "likeness search --identities Ann Lee Bob"}}, "manifest: command"),
        ({"provenance": {"command": f"likeness search --face-ids={ID}"}}, "manifest: command"),
    ],
)
def test_json(tmp_path: Path, body: dict, place: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(body).replace(str(ID), str(OTHER)).replace("ann/1", "ann/2").replace("Ann", "Anna"))
    assert scanned(tmp_path).total == 0
    path.write_text(json.dumps(body))
    assert place in scanned(tmp_path).places


def test_a_command_line_keeps_all_other_words() -> None:
    hidden = TARGET.without_words(
        f"likeness search --identities Ann Lee Bob --face-ids {ID} {OTHER} --top=5 --out Ann Lee2"
    )
    expected = f"likeness search --identities {HIDDEN} Bob --face-ids {HIDDEN} {OTHER} --top=5 --out Ann Lee2"
    assert hidden == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("dim", [2, 8])
def test_vectors_under_another_id(tmp_path: Path, dtype: type, dim: int) -> None:
    vector_ND = minted.unit_vectors(20, dim, seed=1).astype(dtype)
    vector_ND[7] = vector_ND[3]
    id_N = np.arange(100, 120)
    id_N[3] = ID
    table = to_table(id_N, ["Bob"] * 20, [None] * 20, vector_ND, np.ones(20))
    pq.write_table(table, tmp_path / "part.parquet")
    before = scanned(tmp_path)
    assert before.face_id_M.tolist() == [ID]
    assert sum(map(len, before.vectors.values())) == 1
    pq.write_table(table.filter(table["face_id"].to_numpy() != ID), tmp_path / "part.parquet")
    after = scanned(tmp_path, vectors=before.vectors)
    assert after.total == 0
    assert after.copies_M.tolist() == [107], "a copy of the picture"


def test_what_cannot_be_decoded_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "notes.bin").write_bytes(b"?")
    (tmp_path / "damaged.json").write_text(f"{{{ID}")
    found = scanned(tmp_path)
    assert (found.undecoded, found.places) == (2, {"damaged: numbers": 1})
    (tmp_path / "part.parquet").write_bytes(b"PAR1")
    with pytest.raises(Corrupt, match=r"part\.parquet"):
        scanned(tmp_path)


def test_empty_files_are_no_trouble(tmp_path: Path) -> None:
    for number, wanted in enumerate((schema.FACES, schema.embeddings(4), schema.TAGS, schema.MATCHES)):
        pq.write_table(wanted.empty_table(), tmp_path / f"{number}.parquet")
    assert scanned(tmp_path).figures()["files"] == 4
