"""The structure is a rule, so it is checked: who may import whom, and who owns which heavy dependency."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Inside metric_core imports point to the left; the three in the middle never import each other.
LAYERS = {"root": set(), "data": {"root"}, "model": {"root"}, "learn": {"root"}}
LAYERS["index"] = {"root", "data", "model", "learn"}
LAYERS["evaluate"] = {*LAYERS["index"], "index"}
OWNERS = {
    "faiss": "metric_core/index/",
    "torch.distributed": "metric_core/learn/collective.py",
    "ray": "workflows/",
    "mlflow": "workflows/parts/tracking.py",
    "argparse": "workflows/cli.py",
}
COMPOSERS = {"demo", "pipeline", "cli"}


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


def layer(dotted: str) -> str:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "root"


@pytest.mark.parametrize("path", modules("metric_core"), ids=lambda p: str(p.relative_to(ROOT)))
def test_library_imports_point_left(path: Path) -> None:
    own = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name in imports(path):
        assert not name.startswith("workflows"), f"the library must not know the jobs: {name}"
        if name.startswith("metric_core."):
            assert layer(name) in LAYERS[own] | {own}, f"{own} must not import {name}"


@pytest.mark.parametrize("path", modules("metric_core") + modules("workflows"), ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_dependencies_have_one_owner(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    for name in imports(path):
        for package, owner in OWNERS.items():
            if name == package or name.startswith(package + "."):
                assert place.startswith(owner), f"{package} belongs to {owner}"


def test_jobs_do_not_import_each_other() -> None:
    dotted = {p: ".".join(p.relative_to(ROOT / "workflows").with_suffix("").parts) for p in modules("workflows")}
    jobs = {name for p, name in dotted.items() if "\ndef run(" in p.read_text()}
    assert {"catalogue", "train", "embed", "index", "search", "verify", "evaluate", "demo", "embeddings.check"} <= jobs
    for job in jobs - COMPOSERS:
        path = next(p for p, name in dotted.items() if name == job)
        used = {name.removeprefix("workflows.") for name in imports(path)}
        assert not used & (jobs - {job}), f"{job} imports {used & jobs}"


def test_library_reads_no_environment() -> None:
    for path in modules("metric_core"):
        assert "environ" not in path.read_text(), f"{path} reads the environment"
        assert "getenv" not in path.read_text(), f"{path} reads the environment"
