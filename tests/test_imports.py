"""The structure is a rule, so it is checked: who may import whom, and who owns which heavy dependency."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Inside metric_core imports point to what stands above. Of the folders in the middle, learn and model are strangers.
ABOVE: dict[str, set[str]] = {"root": set(), "storage": {"root"}}
ABOVE["artefacts"] = {"root", "storage"}
ABOVE["image"] = {"root", "storage", "artefacts"}
ABOVE["sources"] = {*ABOVE["image"], "image"}
ABOVE["sampling"] = {*ABOVE["image"], "image", "sources"}
ABOVE["model"] = {*ABOVE["image"], "image"}
ABOVE["learn"] = {*ABOVE["image"], "sampling"}
ABOVE["index"] = {*ABOVE["sampling"], "sampling", "model", "learn"}
ABOVE["evaluate"] = {*ABOVE["index"], "index"}
FOLDERS = set(ABOVE) - {"root"}
ROOT_FILES = {"__init__", "counter", "errors", "metrics", "options"}
OWNERS = {
    "faiss": "metric_core/index/",
    "torch.distributed": "metric_core/learn/collective.py",
    "ray": "workflows/",
    "mlflow": "workflows/shared/tracking.py",
    "argparse": "workflows/arguments.py",
}
JOBS = {
    "catalogue",
    "train",
    "embed",
    "index",
    "search",
    "verify",
    "evaluate",
    "embeddings",
    "erase",
    "demo",
    "submit",
    "pipeline",
}
COMPOSERS = {"demo", "pipeline"}


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a module imports; ``from a import b`` counts as a and as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def folder(dotted: str) -> str:
    """Of a module of metric_core, the folder that it lies in."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else "root"


def test_every_folder_of_the_library_has_its_place_and_the_root_holds_what_all_use() -> None:
    inside = {path for path in (ROOT / "metric_core").iterdir() if path.name != "__pycache__"}
    assert {path.name for path in inside if path.is_dir()} == FOLDERS
    assert {path.stem for path in inside if path.suffix == ".py"} == ROOT_FILES


@pytest.mark.parametrize("path", modules("metric_core"), ids=place)
def test_library_imports_point_one_way(path: Path) -> None:
    own = folder(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name in imports(path):
        assert not name.startswith("workflows"), f"the library must not know the jobs: {name}"
        if name.startswith("metric_core."):
            assert folder(name) in ABOVE[own] | {own}, f"{own} must not import {name}"


@pytest.mark.parametrize("path", modules("metric_core") + modules("workflows"), ids=place)
def test_heavy_dependencies_have_one_owner(path: Path) -> None:
    for name in imports(path):
        for package, owner in OWNERS.items():
            if name == package or name.startswith(package + "."):
                assert place(path).startswith(owner), f"{package} belongs to {owner}"


def test_every_job_has_a_folder_with_options_and_work() -> None:
    inside = {path.name for path in (ROOT / "workflows").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert inside == JOBS | {"shared"}
    for job in JOBS:
        names = {path.name for path in (ROOT / "workflows" / job).iterdir()}
        assert "config.py" in names
        assert "job.py" in names or job == "embeddings", "embeddings has a module for each of its four jobs"


@pytest.mark.parametrize("path", modules("workflows"), ids=place)
def test_a_job_s_folder_is_imported_by_no_other_job(path: Path) -> None:
    own = path.relative_to(ROOT / "workflows").parts[0]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "workflows" and len(parts) > 1 and parts[1] in JOBS - {own}:
            assert own in COMPOSERS, f"{place(path)} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "workflows" / "shared").glob("[!_]*.py")), ids=place)
def test_what_is_shared_has_two_users_or_more(path: Path) -> None:
    name = f"workflows.shared.{path.stem}"
    users = {p.relative_to(ROOT / "workflows").parts[0] for p in modules("workflows") if name in imports(p)}
    among = {p.stem for p in (ROOT / "workflows" / "shared").glob("*.py") if p != path and name in imports(p)}
    assert len(users - {"shared"}) + len(among) >= 2, f"only {users | among} use it"


def test_library_reads_no_environment() -> None:
    for path in modules("metric_core"):
        assert "environ" not in path.read_text(), f"{path} reads the environment"
        assert "getenv" not in path.read_text(), f"{path} reads the environment"
