"""Whether a job can start, found out before it writes anything: what every node of the connected cluster reads and
writes with its own credentials, whether all have the same versions, and whether there are enough CPUs and GPUs.

Connecting to the cluster is in ``cluster``, the MLflow store in ``tracking``.
"""

import hashlib
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from metric_core import storage
from metric_core.artefacts import manifest
from metric_core.errors import ConfigError, LikenessError, NotWritable, StorageFull
from workflows.shared import cluster
from workflows.shared.console import one_line, say

NODES_S = 30.0
"""Seconds in which every node must answer."""
ENVIRONMENT_S = 900.0
"""The same where nodes install the job's runtime environment first."""
INSTALLED_BY = {"pip", "uv", "conda", "image_uri", "container"}
"""Fields of a runtime environment that take minutes."""
COMPARED = 1 << 16
"""Bytes at the beginning of a file by which nodes recognise it."""
WRITTEN = 1 << 12
"""Bytes that are written, and removed, to find out whether there is room for any."""
SHOWN = 5
"""Nodes that a message names; the others are counted."""
NODE_GROUP = "ray.io/node-group"
"""Label of nodes that were started for an autoscaler: by KubeRay or by Ray's cluster launcher."""


def require_nodes(out: str, artefacts: list[str], pictures: Iterable[str] = ()) -> None:
    """Check that every node of the connected cluster can do the work, in one small task per node, which takes no CPU.

    Args:
        out: absolute address of the output folder. Every node must be able to write there; nothing stays there.
        artefacts: finished ones, that every node must read and find as this process finds them.
        pictures: files that every node must read if this process can.

    Raises:
        NotWritable, StorageFull: this process cannot write to ``out``.
        ConfigError: a node cannot, or sees another file system, or has another version of something, or does not
            answer; one line per node.
    """
    nodes = cluster.live_nodes()
    files = {storage.join(uri, manifest.NAME): None for uri in artefacts}
    addresses = [out, *files, *(pictures := list(pictures))]
    with _written(out) as mark:
        if len(nodes) < 2 and all(map(storage.is_local, addresses)):
            return
        expected = {address: _beginning(address) for address in [*files, *pictures] if storage.exists(address)}
        expected |= {mark: _beginning(mark)} if mark else {}
        problems = _problems(nodes, out, mark, expected)
    if problems:
        more = [f"{len(problems) - SHOWN} more nodes cannot do the work either"] if len(problems) > SHOWN else []
        raise ConfigError.of(problems[:SHOWN] + more)


def require_room(enough: bool, message: str) -> None:
    """Refuse a job that a cluster of fixed size has no room for. One that can grow gets the time to do so, and a line
    says what is waited for. ``message`` says what was asked for, what was found and what to do.

    Raises:
        ConfigError: there is not enough.
    """
    if enough:
        return
    if not any(node.get("Labels", {}).get(NODE_GROUP) for node in cluster.live_nodes()):
        raise ConfigError(message)
    say(f"{message.partition(';')[0]}; waiting for the cluster's autoscaler to add nodes")


@contextmanager
def _written(out: str) -> Iterator[str | None]:
    """A small file in ``out`` while the block runs, or in the folder that ``out`` will be made in; its address. None if
    it cannot be said where that is, because a file is in the way; that is left to the job."""
    place = out
    if storage.is_local(out):
        there = next(folder for folder in (Path(out), *Path(out).parents) if folder.exists())
        if not there.is_dir():
            yield None
            return
        place = str(there)
    name = f".preflight-{os.urandom(8).hex()}"
    mark = storage.join(place, name)
    try:
        storage.write_bytes(mark, os.urandom(WRITTEN))
    except (NotWritable, StorageFull) as error:
        raise type(error)(str(error).replace(f"{place}:", f"{out}:", 1).replace(name, manifest.PLAN)) from error
    except OSError as error:
        raise ConfigError(f"{out} cannot be written to: {one_line(error)}; {CREDENTIALS}") from error
    try:
        yield mark
    finally:
        storage.remove(mark)


def _problems(nodes: list[dict[str, Any]], out: str, mark: str | None, expected: dict[str, str]) -> list[str]:
    """What is wrong with each node, one line for each of which something is."""
    ours = versions()

    def look(own: str) -> tuple[dict[str, str], str | None]:
        try:  # sent by value, so that it runs where Likeness is missing or another one
            from workflows.shared import preflight
        except ImportError as error:
            return {}, f"has no Likeness, or another one ({error}); install the same version on every node"
        return preflight.versions(), preflight.seen_problem(out, mark, own, expected)

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        task.options(label_selector={"ray.io/node-id": node["NodeID"]}).remote(node["NodeID"][:12]): node
        for node in nodes
    }
    installing = bool(INSTALLED_BY & set(ray.get_runtime_context().runtime_env))
    limit = ENVIRONMENT_S if installing else NODES_S
    _, late = ray.wait(list(asked), num_returns=len(asked), timeout=limit)
    live = {node["NodeID"] for node in cluster.live_nodes()}
    problems = []
    for reference, node in asked.items():
        problem: str | None = f"does not answer within {limit:g} s; see `ray status`, and stop or mend it"
        if reference in late:
            ray.cancel(reference, force=True)
            if mark:
                storage.remove(f"{mark}-{node['NodeID'][:12]}")
        else:
            try:
                theirs, problem = ray.get(reference)
                problem = _unequal(theirs, ours) or problem
            except RayError as error:
                problem = f"cannot run a task: {one_line(cluster.as_likeness_error(error))}"
        if problem and node["NodeID"] in live:  # no work will go to one that was lost meanwhile
            host = f"{node['NodeManagerHostname']}, {node['NodeID'][:6]}"
            problems.append(f"node {node['NodeManagerAddress']} ({host}) {problem}")
    return problems


def _unequal(theirs: dict[str, str], ours: dict[str, str]) -> str | None:
    """How a node's versions differ from those of this process."""
    differ = [f"{name} {theirs[name]}, not {ours[name]}" for name in ours if theirs and theirs[name] != ours[name]]
    return f"has {', '.join(differ)} as this process; install the same on every node" if differ else None


def versions() -> dict[str, str]:
    """Versions that must be equal wherever a job runs. That of Likeness has a digest of its code, because what is not
    released has no version of its own; that of torch lacks its build, which is another one where there are GPUs."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(one for package in ("metric_core", "workflows") for one in (root / package).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    try:
        likeness = version("likeness-faces")
    except PackageNotFoundError:  # run from a folder
        likeness = "not installed"
    return {
        "Likeness": f"{likeness} ({digest.hexdigest()[:8]})",
        "torch": version("torch").partition("+")[0],
        "Ray": ray.__version__,
        "Python": platform.python_version(),
    }


def seen_problem(out: str, mark: str | None, own: str, expected: dict[str, str]) -> str | None:
    """Why this node cannot do the work; None if it can. ``own`` is for the name of the file that it writes."""
    for address, digest in expected.items():
        try:
            found = _beginning(address)
        except Exception as error:  # noqa: BLE001  # each store raises what it likes
            shared = "use a shared file system or an object store" if storage.is_local(address) else CREDENTIALS
            return f"cannot read {_folder(address, mark, out)}: {_reason(error)}; {shared}"
        if found != digest:
            return f"has another {_folder(address, mark, out)} than this process; use a shared file system"
    if mark is None:
        return None
    written = f"{mark}-{own}"
    try:
        try:
            storage.write_bytes(written, bytes(WRITTEN))
        finally:
            storage.remove(written)
    except Exception as error:  # noqa: BLE001  # as above
        right = "give it the right to" if storage.is_local(out) else CREDENTIALS
        return f"cannot write to {out}: {_reason(error)}; {right}"
    return None


CREDENTIALS = "give the node credentials for it, in its own environment or profile"


def _folder(address: str, mark: str | None, out: str) -> str:
    return out if address == mark else address.removesuffix(f"/{manifest.NAME}")


def _beginning(address: str) -> str:
    return hashlib.sha256(storage.read_bytes(address, 0, COMPARED)).hexdigest()


def _reason(error: Exception) -> str:
    """An error in one clause, without the remedy for this process."""
    text = one_line(error).partition(";")[0]
    return text if isinstance(error, LikenessError) else f"{type(error).__name__}: {text}"
