"""What a pipeline decides from what is there."""

from pathlib import Path

import pytest
from support import minted

from metric_core.artefacts import manifest
from metric_core.errors import ConfigError, FingerprintMismatch, Occupied
from metric_core.index import gate
from metric_core.index.version import Version
from workflows.pipeline import page, planning
from workflows.pipeline.config import PipelineConfig
from workflows.pipeline.folder import Folder
from workflows.pipeline.journal import Step
from workflows.pipeline.planning import Live, Way

MODEL, OTHER = "a" * 64, "b" * 64


def live(*plans: str, fingerprint: str = MODEL, rows: int = 100) -> Live:
    return Live(Version("/w/index", "0" * 16), "d", fingerprint, list(plans), rows, 10)


@pytest.mark.parametrize(
    ("there", "chain", "how", "expected", "plans"),
    [
        (None, ["1"], {}, "build", ()),
        (live("1"), ["1"], {}, "nothing", ()),
        (live("1"), ["1", "2", "3"], {}, "add", ["2", "3"]),
        (live("1", "2"), ["1"], {}, "build", ()),
        (live("1", "2"), ["1", "3"], {}, "build", ()),
        (live("1", fingerprint=OTHER), ["1"], {}, "build", ()),
        (live("1"), ["1", "2"], {"rebuild": True}, "build", ()),
        (live("1", "2"), ["1", "2"], {"erased": True}, "add", ["2"]),
        (live("1"), ["1", "2"], {"erased": True}, "add", ["2"]),
    ],
    ids=["none", "same", "more", "fewer", "others", "model", "rebuild", "erased", "erased and more"],
)
def test_how_the_index_gets_what_it_lacks(there, chain, how, expected, plans):
    found: Way = planning.way(there, chain, MODEL, **{"rebuild": False, "erased": False} | how)
    assert (found.how, list(found.plans)) == (expected, list(plans))
    assert found.why


def test_another_model_is_refused_unless_it_is_an_upgrade() -> None:
    for there, upgrade in ((None, False), (live("1"), False), (live("1", fingerprint=OTHER), True)):
        planning.require_same_model(there, MODEL, "models/new", upgrade=upgrade)
    with pytest.raises(FingerprintMismatch, match=f"--model models/new is {MODEL}.*of model {OTHER}.*--upgrade"):
        planning.require_same_model(live("1", fingerprint=OTHER), MODEL, "models/new", upgrade=False)


@pytest.mark.parametrize(
    ("gone", "there", "stops"),
    [(20, live("1"), False), (21, live("1"), True), (21, None, False), (0, live("1"), False)],
)
def test_a_source_that_has_lost_too_much_stops_the_run(gone: int, there: Live | None, stops: bool) -> None:
    said = planning.too_many_gone(gone, there, 0.2)
    assert bool(said) == stops
    assert not said or "21 faces of earlier runs" in said


def made(folder: Path, *names: str, without: str = "") -> str:
    """Folders with a plan and a manifest, or without one of them."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for file in {manifest.PLAN, manifest.NAME, "part-000000.parquet"} - {without}:
            (folder / name / file).touch()
    return str(folder)


def test_what_lies_in_the_folder(tmp_path: Path) -> None:
    a, b = MODEL[:12], OTHER[:12]
    made(tmp_path, "faces-000001", "faces-000003", f"embeddings-000001-{a}", f"embeddings-000001-{b}", "index")
    made(tmp_path, f"embeddings-000003-{a}", "faces-000004", f"embeddings-000002-{b}", without=manifest.NAME)
    made(tmp_path, "faces-000002", f"embeddings-000003-{b}", without=manifest.PLAN)
    (tmp_path / ".lease.json").touch()
    found = Folder.read(str(tmp_path))
    assert [place.number for place in found.faces] == [1, 3]
    assert [(place.number, place.finished, place.model) for place in found.embeddings] == [
        (1, True, a),
        (1, True, b),
        (3, False, a),
    ]
    begun = found.interrupted(MODEL)
    assert begun == (found.embeddings[-1], found.faces[-1])
    assert found.interrupted(OTHER) is None, "its catalogue is not there any more"
    assert found.next_faces == f"{tmp_path}/faces-000004"
    assert found.embeddings_of(found.faces[-1], OTHER) == f"{tmp_path}/embeddings-000003-{b}"
    rubbish = {Path(address).name for address in found.rubbish}
    assert rubbish == {"faces-000002", "faces-000004", f"embeddings-000002-{b}", f"embeddings-000003-{b}"}
    told: list[str] = []
    swept = found.sweep(told.append)
    assert (len(told), swept.rubbish, swept.faces, swept.embeddings) == (4, [], found.faces, found.embeddings)
    assert sorted(path.name for path in tmp_path.glob("faces-*")) == ["faces-000001", "faces-000003"]


def test_what_nothing_needs_goes_and_what_is_begun_keeps_its_catalogue(tmp_path: Path) -> None:
    made(tmp_path, "faces-000001", "faces-000002", "faces-000003", "faces-000004")
    for number, model in ((1, MODEL), (1, OTHER), (2, OTHER), (4, MODEL)):
        out = tmp_path / f"embeddings-00000{number}-{model[:12]}"
        minted.embeddings(out, [1, 2], minted.unit_vectors(2), fingerprint=model)
        (out / manifest.PLAN).touch()
    made(tmp_path, f"embeddings-000002-{'c' * 12}", without=manifest.NAME)
    found = Folder.read(str(tmp_path))
    assert [one.plan_id for one in found.chain(OTHER)] == [f"embeddings-00000{n}-{OTHER[:12]}" for n in (1, 2)]
    kept = [f"embeddings-000001-{OTHER[:12]}"]
    assert [one.fingerprint for one in found.of_plans(kept)] == [OTHER]
    gone = found.unneeded(kept, [f"{tmp_path}/faces-000001"], MODEL)
    assert [Path(address).name for address in gone] == [f"embeddings-000002-{OTHER[:12]}", "faces-000003"]
    assert found.unneeded([], [], OTHER) == [
        *(f"{tmp_path}/embeddings-00000{n}-{MODEL[:12]}" for n in (1, 4)),
        *(f"{tmp_path}/faces-00000{n}" for n in (1, 3)),
    ]


def test_the_page_is_safe_and_names_nobody() -> None:
    step = Step("publish", "stopped", "version 1 is worse\nthe table", {"rows": 5000, "recall": 0.25}, 1.25)
    table = f"{gate.HEAD}\n{gate.Figure('people', 5, 3, 4, True, '2 are gone, Ann Lee, Bo …')}"
    text = page.html("a < b", {"work": "s3://u:secret@b/w", "none": None}, [step], {"Stopped": table})
    assert "a &lt; b" in text
    assert "2 are gone</pre>" in text
    assert "version 1 is worse</td>" in text
    assert "rows 5,000, recall 0.25" in text
    for absent in ("Ann Lee", "secret", "the table", "http", "<script"):
        assert absent not in text


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    assert Folder.read(str(tmp_path / "new")).faces == []
    made(tmp_path, "faces-000001", "photos", "embeddings-1")
    with pytest.raises(Occupied, match="holds embeddings-1, photos, which no pipeline made"):
        Folder.read(str(tmp_path))


def test_all_problems_of_all_jobs_at_once() -> None:
    config = PipelineConfig(source="s", model="m", work="w", spec="IVF8,SQ8", unit_size=7, tolerance=0.1)
    assert config.embedding("f", "e", "a,b").unit_size == 7
    assert config.building("e", "i").spec == "IVF8,SQ8"
    assert not config.building("e", "i").publish
    assert not config.adding("e", "i").publish
    assert config.cataloguing("f", "n").namespace == "n"
    with pytest.raises(ConfigError) as error:
        PipelineConfig(source="s", model="m", work="w", keep=0, max_gone=2.0, unit_size=0, spec="Flut", tolerance=-1.0)
    assert [line.split(" is ")[0] for line in str(error.value).splitlines()] == [
        *("keep", "max_gone", "unit_size", "tolerance", "spec")
    ]
