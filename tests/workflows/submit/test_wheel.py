"""The wheel of a checkout is built once per state of its sources, and holds what makes it as good as installed."""

import shutil
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from metric_core.errors import ConfigError, JobFailed
from workflows.submit import wheel


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout, with a cache of its own."""
    monkeypatch.setattr(wheel, "user_cache_path", lambda name: tmp_path / "cache" / name)
    root = tmp_path / "checkout"
    for name in wheel.OTHERS:
        root.mkdir(exist_ok=True)
        shutil.copy(wheel.ROOT / name, root)
    for package in wheel.PACKAGES:
        (root / package / "inner" / "__pycache__").mkdir(parents=True)
        for file in ("__init__.py", "inner/__init__.py", "py.typed", "inner/__pycache__/x.pyc"):
            (root / package / file).touch()
    return root


def test_of_one_state_of_the_sources(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = wheel.built(checkout)
    names = {name for name in zipfile.ZipFile(first).namelist() if not name.startswith("likeness_faces-")}
    files = ("__init__.py", "inner/__init__.py", "py.typed")
    assert names == {f"{package}/{file}" for package in wheel.PACKAGES for file in files}
    assert "likeness_faces-0.1.0.dist-info/METADATA" in zipfile.ZipFile(first).namelist(), "so that it has a version"
    assert not (checkout / "build").exists()

    def again(root: Path, files: list[Path]) -> bytes:
        return b"built again"

    monkeypatch.setattr(wheel, "_build", again)
    (checkout / "workflows" / "inner" / "__pycache__" / "x.pyc").write_bytes(b"other")
    assert wheel.built(checkout) == first
    assert zipfile.is_zipfile(first)
    (checkout / "workflows" / "inner" / "__init__.py").write_text("changed = True\n")
    assert wheel.built(checkout).read_bytes() == b"built again"


def test_of_no_checkout_or_a_broken_one(checkout: Path) -> None:
    (checkout / "pyproject.toml").write_text("[build-system\n")
    with pytest.raises(JobFailed, match=r"no wheel of .* could be built: .*or give --installed or --image"):
        wheel.built(checkout)
    (checkout / "pyproject.toml").unlink()
    with pytest.raises(ConfigError, match="is no checkout, so no wheel can be built; give --installed or --image"):
        wheel.built(checkout)


def test_packages_have_the_versions_here() -> None:
    direct, pins = wheel.requirements(), dict(one.split("==") for one in wheel.pins())
    assert {"torch>=2.5", "ray>=2.50", "faiss-cpu>=1.15"} <= set(direct)
    assert pins["torch"] == version("torch").split("+")[0]
    assert {"aiohttp", "alembic", "threadpoolctl", "s3fs"} <= pins.keys(), "also what those packages need"
    assert not {"ray", "pytest", "ruff"} & pins.keys()
