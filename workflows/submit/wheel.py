"""The wheel of this checkout, built once per state of its sources, and the packages that it needs in the versions here.

A wheel is a zip file of packages and their metadata: unpacked into a folder on PYTHONPATH it is as good as installed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from platformdirs import user_cache_path

from metric_core import storage
from metric_core.errors import ConfigError, JobFailed

ROOT = Path(__file__).parents[2]
PACKAGES = ("metric_core", "workflows")
OTHERS = ("pyproject.toml", "README.md", "LICENSE")
"""What building needs beside the packages."""
DISTRIBUTION = "likeness-faces"
EXTRAS = ("", "cpu", "gpu", "s3")
"""Groups of requirements that jobs use. Of these, nodes need what is installed here."""
EPOCH = "315532800"
"""Time of the files in a wheel, in seconds since 1970: the first that a zip file can hold. With one time for all, the
same sources make the same wheel, which a cluster that has it needn't be sent again."""


def built(root: Path = ROOT) -> Path:
    """The wheel of the checkout, as a file ``….zip``, from this user's cache if these sources were built before.

    Raises:
        ConfigError: the code does not run from a checkout.
        JobFailed: pip could not build it.
    """
    if not (root / "pyproject.toml").is_file():
        raise ConfigError(f"{root} is no checkout, so no wheel can be built; give --installed or --image")
    files = _sources(root)
    path = user_cache_path("likeness") / "wheels" / _digest(root, files) / f"{DISTRIBUTION}.zip"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.write_bytes(str(path), _build(root, files))
    return path


def _sources(root: Path) -> list[Path]:
    inside = (path for package in PACKAGES for path in (root / package).rglob("*"))
    found = [path for path in inside if path.is_file() and "__pycache__" not in path.parts]
    return sorted([*found, *(root / name for name in OTHERS)])


def _digest(root: Path, files: list[Path]) -> str:
    digest = hashlib.sha256(version("setuptools").encode())
    for path in files:
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _build(root: Path, files: list[Path]) -> bytes:
    """The wheel, built in a copy, since setuptools leaves folders beside the sources and takes old ones for new."""
    with tempfile.TemporaryDirectory(prefix="likeness-wheel-") as folder:
        for path in files:
            to = Path(folder, "source", path.relative_to(root))
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
        done = subprocess.run(
            [*command, "--wheel-dir", folder, f"{folder}/source"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
            raise JobFailed(
                f"no wheel of {root} could be built: {lines[-1].strip()}; "
                f"`{sys.executable} -m pip install 'setuptools>=77'` may help, or give --installed or --image"
            )
        return wheels[0].read_bytes()


def requirements() -> list[str]:
    """What Likeness itself needs of other packages, such as ``torch>=2.5``; extras only where installed here."""
    return [f"{one.name}{one.specifier}" for one in _direct()]


def pins() -> list[str]:
    """The packages that Likeness needs, and those that they need in turn, in the versions here. Ray is left out: the
    one of the nodes stays."""
    found: dict[str, str] = {}
    waiting = [*_direct()]
    seen: set[tuple[str, str]] = set()
    while waiting:
        one = waiting.pop()
        name = one.name.lower().replace("_", "-")
        for extra in ("", *one.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += _of(name, extra)
        found[name] = version(name).partition("+")[0]  # a local version such as 2.13.0+cpu is in no registry
    return [f"{name}=={found[name]}" for name in sorted(found) if name != "ray"]


def _direct() -> list[Requirement]:
    return [one for extra in EXTRAS for one in _of(DISTRIBUTION, extra)]


def _of(name: str, extra: str) -> Iterator[Requirement]:
    """The requirements of a package, or those that one of its extras adds, as far as they are installed here."""
    for one in map(Requirement, requires(name) or []):
        own = one.marker is None or one.marker.evaluate({"extra": ""})
        if (one.marker is None or one.marker.evaluate({"extra": extra})) and own == (extra == "") and _is_here(one):
            yield one


def _is_here(one: Requirement) -> bool:
    try:
        return bool(version(one.name))
    except PackageNotFoundError:
        return False
