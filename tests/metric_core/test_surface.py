"""The library's public names, and the page about them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metric_core

ROOT = Path(__file__).parents[2]
NAMES = [
    "Collection",
    "Embedder",
    "Embeddings",
    "Faces",
    "GlobalBatch",
    "Index",
    "LikenessError",
    "Model",
    "Objective",
    "Vectors",
    "World",
    "batch_hard",
    "distance_weighted",
    "easy_positive",
    "fetch",
    "global_loss",
    "semi_hard",
]


def test_names_change_on_purpose() -> None:
    assert metric_core.__all__ == NAMES
    assert set(NAMES) <= set(dir(metric_core))
    for name in NAMES:
        assert getattr(metric_core, name).__name__ == name
    with pytest.raises(AttributeError, match="'metric_core' has no attribute 'Face'"):
        _ = metric_core.Face
    with pytest.raises(ImportError, match="Face"):
        from metric_core import Face  # noqa: F401


def test_type_checkers_know_the_same_names() -> None:
    stub = (ROOT / "metric_core" / "__init__.pyi").read_text()
    homes = re.findall(r"^from (\S+) import (\w+) as \2$", stub, re.MULTILINE)
    assert len(homes) == len(stub.splitlines())
    assert sorted(name for _, name in homes) == NAMES
    for module, name in homes:
        assert getattr(sys.modules[module], name) is getattr(metric_core, name)
    for package in ("metric_core", "workflows"):
        assert (ROOT / package / "py.typed").exists()


def test_importing_costs_nothing() -> None:
    code = "import sys; before = set(sys.modules); import metric_core; print(*set(sys.modules) - before)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    loaded = {module.split(".")[0] for module in out.split()}
    assert loaded - sys.stdlib_module_names == {"metric_core"}
    assert len(out.split()) < 10


@pytest.fixture
def readme_s_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the README's commands write, here written once and for all, in the current folder."""
    frozen = ROOT / "tests" / "frozen" / "1"
    for noun in ("faces", "model", "embeddings", "index"):
        shutil.copytree(frozen / noun, tmp_path / "runs" / noun)
    shutil.copytree(frozen / "pictures", tmp_path / "demo-out" / "pictures")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_s_example_runs(readme_s_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "python.md").read_text(), re.DOTALL | re.M)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/python.md", "exec"), names)
    assert capsys.readouterr().out.startswith("33 faces, 32 embedded, 32 indexed\nsimilarity 0.")
    matches = names["matches"].to_pylist()
    assert [match["rank"] for match in matches] == [1, 2, 3, 1, 2, 3]
    best = [match for match in matches if match["rank"] == 1]
    assert {match["identity"] for match in best} == {"person-0000"}
    assert all(match["score"] == pytest.approx(1, abs=1e-5) for match in best), "both pictures are in the index"
    assert names["outcome"].value.isfinite()
    assert names["emb"].grad.abs().sum() > 0
    triplets, label = names["triplets"], names["label"]
    assert len(triplets.anchor_T) == 32
    assert torch.equal(label[triplets.anchor_T], label[triplets.positive_T])
    assert (label[triplets.anchor_T] != label[triplets.negative_T]).all()


def test_the_page_lists_every_name() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    assert [name for name in NAMES if f"`{name}" not in page] == []


def test_embedding_pictures(readme_s_folders: Path) -> None:
    model = metric_core.Model.open("runs/model")
    folder = Path("demo-out/pictures/person-0000")
    good = [folder / "00.jpg", folder / "01.jpg"]
    vector_ND = model.embed([good[0], str(good[1]), good[0].read_bytes()])
    assert vector_ND.dtype == np.float32
    assert vector_ND.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(vector_ND, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(vector_ND[0], vector_ND[2], atol=1e-6)
    many_ND = model.embed(iter(good * 100))  # more than are held at once, in order
    np.testing.assert_allclose(many_ND, np.tile(vector_ND[:2], (100, 1)), atol=1e-5)
    assert model.embed([]).shape == (0, 8)
    with pytest.raises(metric_core.LikenessError, match=r"^corrupt: .*picture 1, counted from 0"):
        model.embed([good[0], folder / "broken.jpg"])
    with pytest.raises(metric_core.LikenessError, match=r"no\.jpg"):
        model.embed([folder / "no.jpg"])
    with pytest.raises(IsADirectoryError):
        model.embed([folder])
