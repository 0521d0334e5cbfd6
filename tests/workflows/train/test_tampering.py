"""A Model that is not what was written is refused; what a training keeps while it runs is checked, or made again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tampering
from support.tiny import Chain, small, untrained

from metric_core.artefacts import manifest
from metric_core.errors import ArtefactError, Corrupt
from metric_core.model import bundle
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.train import checkpoints
from workflows.train import job as train
from workflows.train.training import Training

MODEL = (r"weights\.safetensors", r"model\.json", r"manifest\.json")
PLAN = r"plan\.json"
SNAPSHOT = "checkpoint_manager_snapshot.json"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Model, and one of other weights and another size."""
    root = tmp_path_factory.mktemp("made")
    for size, name in ((16, "mine"), (32, "theirs")):
        untrained(str(root / name), size)
        plan = {"steps": size, "text": "of a length that puts the middle of the file into it, as that of real plans is"}
        (root / name / manifest.PLAN).write_bytes(manifest.plan_file("model", plan))

    weights = {name: 2 * tensor for name, tensor in load_file(root / "theirs" / bundle.WEIGHTS).items()}
    save_file(weights, root / "theirs" / bundle.WEIGHTS)
    return root


def test_every_kind_of_file_of_a_model_has_a_case(made: Path) -> None:
    tampering.require_every_kind(made / "mine", [*MODEL, PLAN])


@pytest.mark.parametrize(("pattern", "way"), tampering.cells(MODEL))
def test_a_model_is_refused(made: Path, tmp_path: Path, pattern: str, way: str) -> None:
    copy = Path(shutil.copytree(made / "mine", tmp_path / "mine"))
    assert bundle.load(str(copy)).uri == str(copy)
    tampering.damage(copy, pattern, way, made / "theirs")
    line = tampering.outcome(lambda: bundle.load(str(copy)), ArtefactError)
    assert line
    assert str(copy) in line


@pytest.mark.parametrize(("pattern", "way"), tampering.cells([PLAN]))
def test_a_plan_is_refused_by_the_job_that_continues(made: Path, tmp_path: Path, pattern: str, way: str) -> None:
    copy = Path(shutil.copytree(made / "mine", tmp_path / "mine"))
    plan = json.loads((copy / manifest.PLAN).read_text())["plan"]
    assert manifest.begin(str(copy), "model", plan) is not None
    tampering.damage(copy, pattern, way, made / "theirs")
    line = tampering.outcome(lambda: manifest.begin(str(copy), "model", plan), ArtefactError)
    assert line
    assert str(copy) in line


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Two checkpoints, as Ray Train lays them, and its own record of them."""
    for folder, times in (("work", 1), ("other", 2)):
        for step in (10, 20):
            at = tmp_path / folder / checkpoints.RUN / f"checkpoint_2026-11-28_0{step}"
            at.mkdir(parents=True)
            checkpoints.save({"step": step, "model": {"w": times * torch.arange(400.0)}}, str(at))
        (tmp_path / folder / checkpoints.RUN / "checkpoint_manager_snapshot.json").write_text(
            f'{{"step": {times}00000}}'
        )
    return tmp_path / "work"


CHECKPOINT = tuple(rf"{checkpoints.RUN}/checkpoint_[^/]+/{name}" for name in (r"state\.pt", r"state\.sha256"))


@pytest.mark.parametrize(("pattern", "way"), tampering.cells(CHECKPOINT))
def test_a_damaged_checkpoint_is_none(work: Path, pattern: str, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A link is refused before, as those of all artefacts are."""
    tampering.require_every_kind(work, [*CHECKPOINT, r".*/checkpoint_manager_snapshot\.json"])
    tampering.damage(work, pattern, way, work.parent / "other")
    if way == "linked":
        with pytest.raises(Corrupt, match="is a link that leads out"):
            manifest.require_own(str(work))
        return
    whole = (pattern, way) == (CHECKPOINT[1], "missing")  # the first versions of Likeness wrote none
    for _ in range(2):  # on a worker, and after the driver has removed what is damaged
        state = checkpoints.latest(str(work), CPU)
        assert state is not None
        assert state["step"] == (20 if whole else 10)
        assert torch.equal(state["model"]["w"], torch.arange(400.0))
        checkpoints.prepare(str(work))
    assert ("the training continues from before it" in capsys.readouterr().err) == (not whole)
    assert len(list((work / checkpoints.RUN).iterdir())) == 1 + whole, "Ray's own record is not needed"


@pytest.mark.parametrize("data", [b"", b"PK\3\4", b"\x80\x02}q\x00.", b"x" * 5000])
def test_a_checkpoint_of_another_shape_and_without_digest(work: Path, data: bytes) -> None:
    for state in work.rglob(checkpoints.STATE):
        state.write_bytes(data)
        (state.parent / checkpoints.DIGEST).unlink()
    with pytest.raises(Corrupt, match=r"state\.pt is no checkpoint .*; start again with the same arguments"):
        checkpoints.load(str(state.parent), CPU)
    assert checkpoints.latest(str(work), CPU) is None


def test_older_checkpoints_are_removed(work: Path) -> None:
    for step in range(30, 60, 10):
        at = work / checkpoints.RUN / f"checkpoint_2026-11-28_0{step}"
        at.mkdir()
        checkpoints.save({"step": step}, str(at))
    checkpoints.prepare(str(work))
    assert sorted(path.name[-2:] for path in (work / checkpoints.RUN).iterdir()) == ["40", "50"]
    assert checkpoints.latest(str(work / "nothing"), CPU) is None
    checkpoints.prepare(str(work / "nothing"))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory, people: Path) -> str:
    out = str(tmp_path_factory.mktemp("faces") / "faces")
    catalogue.run(CatalogueConfig(source=str(people), out=out))
    return out


def training(faces: str, out: Path, **more: int) -> Training:
    return Training.prepare(small(faces, str(out), f"sqlite:///{out.parent}/mlflow.db", **more))


@pytest.mark.parametrize("way", tampering.WAYS[:4])
def test_a_damaged_mean_face_is_learnt_again(faces: str, tmp_path: Path, way: str) -> None:
    mine = training(faces, tmp_path / "model")
    spec = mine.model_spec()
    training(faces, tmp_path / "other", seed=5).model_spec()
    stored = tmp_path / "model" / "_run" / "mean-face.txt"
    whole = stored.read_bytes()
    tampering.damage(tmp_path / "model" / "_run", r"mean-face\.txt", way, tmp_path / "other" / "_run")
    assert mine.model_spec() == spec
    assert stored.read_bytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"uri": 5}', "edited"])
def test_a_damaged_note_of_the_run_opens_another(faces: str, tmp_path: Path, text: str) -> None:
    mine = training(faces, tmp_path / "model")
    first = mine.open_run().run_id
    assert mine.open_run().run_id == first
    stored = tmp_path / "model" / "_run" / "mlflow.json"
    edited = stored.read_text().replace(first, first[::-1])
    stored.write_text(edited if text == "edited" else text)
    second = mine.open_run().run_id
    assert second not in (first, first[::-1])
    assert mine.open_run().run_id == second


def test_the_result_of_a_finished_training_needs_no_provenance(chain: Chain, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(chain.model, tmp_path / "model"))
    config = small(chain.faces, str(copy), chain.tracking_uri, workers=2)
    body = json.loads((copy / manifest.NAME).read_text())
    for provenance in ({}, {"result": 5}, {"result": {}}):
        (copy / manifest.NAME).write_text(json.dumps(body | {"provenance": provenance}))
        answer = train.run(config)
        assert answer.keys() == chain.answers["train"].keys()
        assert answer["fingerprint"] == chain.answers["train"]["fingerprint"]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("way", ["flipped", "cut", "missing"])
@pytest.mark.parametrize("pattern", [r".*/state\.pt", r".*/checkpoint_manager_snapshot\.json"])
def test_a_training_with_damaged_checkpoints_ends_with_the_same_model(
    chain: Chain, tmp_path: Path, pattern: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails after its last checkpoint, whose files are then damaged."""
    out = tmp_path / "model"
    config = small(chain.faces, str(out), chain.tracking_uri, workers=2)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "_finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            train.run(config)
    tampering.damage(out / "_run", pattern, way, out)
    assert train.run(config)["fingerprint"] == chain.answers["train"]["fingerprint"]
