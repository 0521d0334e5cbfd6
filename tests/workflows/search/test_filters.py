"""``likeness search`` among some of the faces: as if the index had no others."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import minted

from metric_core.artefacts import manifest
from metric_core.artefacts.faces import Faces
from metric_core.errors import ConfigError, Corrupt, Missing, Occupied
from metric_core.sources import catalogue
from metric_core.sources.found import Found
from workflows import cli
from workflows.index import job as index
from workflows.index.config import IndexConfig
from workflows.search import job as search
from workflows.search.config import SearchConfig

PEOPLE, EACH, DIM = 110, 6, 16
VIEWS = ("front", "left", None)
SPECS = ("Flat", "IVF8,SQ8", "IVF8,PQ8x4fsr,Refine(SQfp16)")


@dataclass(frozen=True)
class Corpus:
    """Addresses, and what is known of each face."""

    faces: str
    embeddings: str
    one: str
    """Embeddings of the first face only"""
    face_id_N: np.ndarray
    identity_N: np.ndarray
    view_N: np.ndarray
    split_N: np.ndarray
    vector_ND: np.ndarray

    def among(self, allowed_N: np.ndarray) -> list[str]:
        """The people that a search for the first face must find, best first: by comparing it with everyone."""
        score_N = np.where(allowed_N & (self.face_id_N != self.face_id_N[0]), self.vector_ND @ self.vector_ND[0], -9)
        order = [at for at in np.argsort(-score_N, kind="stable") if score_N[at] > -9]
        return list(dict.fromkeys(self.identity_N[order].tolist()))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """110 people with 6 faces each, in two splits; of three faces one is seen from the front, one from the left."""
    root = tmp_path_factory.mktemp("filters")
    random = np.random.default_rng(3)
    found = [
        Found(
            identity=f"person-{n // EACH:03d}",
            key=f"{n:04d}",
            kind="file",
            uri=f"{n:04d}.jpg",
            content_tag=f"{n:04d}",
            view=VIEWS[n % 3],
            split="valid" if n // EACH % 4 == 0 else "train",
        )
        for n in range(PEOPLE * EACH)
    ]
    plan = {"root": str(root), "namespace": "n"}
    manifest.begin(str(root / "faces"), "faces", plan)
    content = catalogue.write(str(root / "faces"), iter([catalogue.to_table(found, "n")]), "n")
    manifest.write(str(root / "faces"), "faces", plan | content, {})
    table = Faces.open(str(root / "faces")).table.sort_by("face_id")
    names = np.array(table["identity"].to_pylist())
    center = random.standard_normal((PEOPLE, DIM))[[int(name[-3:]) for name in names]]
    vector_ND = center + 0.4 * random.standard_normal(center.shape)
    vector_ND = (vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)).astype(np.float32)
    ids, views = table["face_id"].to_pylist(), table["view"].to_pylist()
    made = minted.embeddings(root / "all", ids, vector_ND, identities=names.tolist(), views=views, unit=100)
    one = minted.embeddings(root / "one", ids[:1], vector_ND[:1], identities=names[:1].tolist())
    split_N, view_N = np.array(table["split"].to_pylist()), np.array(views, object)
    return Corpus(str(root / "faces"), made, one, np.array(ids), names, view_N, split_N, vector_ND)


@pytest.fixture(scope="module", params=SPECS)
def built(
    request: pytest.FixtureRequest, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> str:
    """The address of an index, in two shards."""
    out = str(tmp_path_factory.mktemp("index") / "index")
    index.run(
        IndexConfig(embeddings=corpus.embeddings, out=out, spec=request.param, shards=2, target_identity_recall=0.5)
    )
    return out


@pytest.fixture(scope="module")
def flat(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> str:
    """The address of an exact index."""
    out = str(tmp_path_factory.mktemp("index") / "flat")
    index.run(IndexConfig(embeddings=corpus.embeddings, out=out, spec="Flat", shards=2))
    return out


def people(config: SearchConfig) -> list[str]:
    return [match["identity"] for match in search.run(config)["matches"]]


def test_a_filtered_search_finds_whom_a_comparison_with_everyone_finds(corpus: Corpus, built: str) -> None:
    asked = SearchConfig(index=built, embeddings=corpus.one, top=3)
    valid_N, front_N = corpus.split_N == "valid", corpus.view_N == "front"
    some = ["person-090", "person-007", "person-055", "person-013"]
    some_N = np.isin(corpus.identity_N, some)
    ids = corpus.face_id_N[::50]
    ids_N = np.isin(corpus.face_id_N, ids)
    exact = "Flat" in manifest_spec(built)
    for config, allowed_N in (
        (replace(asked, identities=some), some_N),
        (replace(asked, views=["front"]), front_N),
        (replace(asked, split="valid"), valid_N),
        (replace(asked, face_ids=ids.tolist()), ids_N),
        (replace(asked, split="valid", views=["front", "left"]), valid_N & (corpus.view_N != None)),  # noqa: E711
        (replace(asked, identities=some, views=["left"]), some_N & (corpus.view_N == "left")),
    ):
        expected = corpus.among(allowed_N)[:3]
        found = people(config)
        assert len(found) == len(expected)
        assert found[0] == expected[0]
        assert not exact or found == expected


def manifest_spec(built: str) -> str:
    live = Path(built, "CURRENT").read_text().strip()
    return json.loads(Path(built, "versions", live, "manifest.json").read_text())["content"]["spec"]["factory"]


def test_fewer_people_than_asked_for_are_all_found(corpus: Corpus, built: str) -> None:
    config = SearchConfig(index=built, embeddings=corpus.one, top=50, identities=["person-001", "person-002"])
    assert sorted(people(config)) == ["person-001", "person-002"]


def test_what_the_index_does_not_have_is_named_with_what_it_has(corpus: Corpus, flat: str) -> None:
    asked = SearchConfig(index=flat, embeddings=corpus.one)
    for more, line in (
        (
            {"identities": ["person-0007"]},
            r"^identities: not in the index: 'person-0007'; .* 110 people; .* 'person-007'$",
        ),
        ({"identities": list("abcde")}, r"^identities: not in the index: 'a', 'b', 'c' and 2 more; "),
        ({"face_ids": [4, 5]}, r"^face_ids: not in the index: 4, 5; the index has 660 faces"),
        ({"views": ["right"]}, r"^views: not in the index: 'right'; the index has front, left$"),
        ({"split": "test"}, r"has no split 'test'; it has: train, valid$"),
        ({"identities": ["person-001"], "split": "valid"}, r"no face in the index meets .*\(identities, split\)"),
        ({"identities": ["x"], "views": ["y"]}, r"^identities: .*\nviews: "),
    ):
        with pytest.raises(ConfigError, match=line):
            search.run(replace(asked, **more))
    with pytest.raises(Missing, match="does not exist; a finished faces artefact"):
        search.run(replace(asked, split="valid", faces=corpus.faces + "-2"))


def test_an_index_without_views_says_so(corpus: Corpus, tmp_path: Path, ray_session: None) -> None:
    ids, out = list(range(30)), str(tmp_path / "index")
    made = minted.embeddings(tmp_path / "plain", ids, minted.unit_vectors(30))
    index.run(IndexConfig(embeddings=made, out=out, spec="Flat"))
    with pytest.raises(ConfigError, match="views: not in the index: 'front'; no face in the index has a view"):
        search.run(SearchConfig(index=out, embeddings=made, views=["front"]))


def test_options_that_name_nothing_are_refused() -> None:
    for more, line in (
        ({"identities": [""]}, "an element must not be empty"),
        ({"views": [""]}, "an element must not be empty"),
        ({"split": ""}, "it must not be empty"),
        ({"face_ids": [-3]}, "face_ids is -3; it must be 0 or more"),
    ):
        with pytest.raises(ConfigError, match=line):
            SearchConfig(index="index", embeddings="embeddings", **more)


def test_the_command_reads_lists(corpus: Corpus, flat: str, capsys: pytest.CaptureFixture[str]) -> None:
    id_ = int(corpus.face_id_N[7])
    line = ["search", "--index", flat, "--embeddings", corpus.one, "--json"]
    assert cli.main([*line, "--face-ids", str(id_), str(corpus.face_id_N[8]), "--top", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["matches"][0]["face_id"] in corpus.face_id_N[7:9]
    assert cli.main([*line, "--face-ids", "seven"]) == 2
    assert "--face-ids: invalid int value: 'seven'" in capsys.readouterr().err


def test_matches_belong_to_their_conditions(corpus: Corpus, flat: str, tmp_path: Path) -> None:
    config = SearchConfig(index=flat, embeddings=corpus.one, out=str(tmp_path / "some"), views=["front"], split="valid")
    first = search.run(config)["matches"]
    assert search.run(replace(config, views=["front", "front"]))["matches"] == first
    assert pq.read_table(tmp_path / "some" / "matches.parquet").to_pylist() == first
    conditions = manifest.read(config.out or "", "matches").content["conditions"]
    digest = Faces.open(corpus.faces).manifest.digest
    assert conditions == {"views": ["front"], "split": "valid", "faces": digest}
    for other in ({"views": ["left"]}, {"split": "train"}, {"views": [], "split": None}):
        with pytest.raises(Occupied, match="conditions"):
            search.run(replace(config, **other))
    search.run(replace(config, views=[], split=None, out=str(tmp_path / "all")))
    stored = json.loads((tmp_path / "all" / "manifest.json").read_text())
    without = {name: value for name, value in stored["content"].items() if name != "conditions"}
    assert manifest.digest(without) == stored["digest"], "as before there were conditions"


def test_verify_finds_damage_that_a_file_s_times_do_not_show(corpus: Corpus, tmp_path: Path, ray_session: None) -> None:
    out = str(tmp_path / "index")
    index.run(IndexConfig(embeddings=corpus.embeddings, out=out, spec="Flat", shards=1))
    config = SearchConfig(index=out, embeddings=corpus.one)
    search.run(replace(config, verify=True))
    path = next(Path(out, "shards").glob("*.faiss"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="sha256"):
        search.run(replace(config, verify=True))


def test_a_search_for_embeddings_starts_neither_torch_nor_ray(corpus: Corpus, flat: str) -> None:
    code = (
        "import sys; from workflows.cli import main; "
        "code = main(sys.argv[1:]); "
        "print(sorted({'torch', 'ray', 'mlflow', 'PIL', 'scipy'} & {*sys.modules})); sys.exit(code)"
    )
    line = [
        sys.executable,
        "-c",
        code,
        "search",
        "--index",
        flat,
        "--embeddings",
        corpus.one,
        "--identities",
        "person-003",
    ]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "person-003" in done.stdout
