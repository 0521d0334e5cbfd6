"""Ray for the length of a job: an existing cluster when one is named, else a local one that is stopped again."""

import logging
import os
import shutil
import socket
import tempfile
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from metric_core import storage
from metric_core.artefacts import manifest
from metric_core.errors import ConfigError, JobFailed, LikenessError
from workflows.shared.options import RunOptions

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else every line of a worker is shown twice
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the controller's poll; its default of 2 s delays every report
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # 60 s are too few for a busy machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the new behaviour; unset, Ray warns about the old one
}

KEEP_MEMORY = {"env_vars": {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}}
"""Runtime environment of processes that run a network on CPUs. glibc would give every large tensor back to the system
and be given it again, zeroed page by page: half of the time that embedding takes (mallopt(3)). One arena, because the
work is done in threads, and a thread's own arena holds nothing above 64 MB."""


@contextmanager
def connected(options: RunOptions) -> Iterator[None]:
    """Ray, connected. A local cluster is started and stopped by us; one that was there before is left running.

    Raises:
        ConfigError: no cluster answers at the address.
        JobFailed: no local cluster could be started, or Ray failed in the block, as when an actor died.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        with _failures_in_a_line():
            yield
        return
    address = options.address or os.environ.get("RAY_ADDRESS")
    how: dict[str, Any] = {
        "log_to_driver": options.verbose,
        "logging_level": logging.INFO if options.verbose else logging.ERROR,
        "configure_logging": True,
    }
    scratch = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default" if options.verbose else "ignore")
            if address:
                _join(address, how)
            else:
                # A folder of our own, so that nothing of Ray's session stays behind. Ray adds some 75 characters to
                # it, and the path of a socket ends at 107.
                roomy = len(tempfile.gettempdir()) <= 20
                scratch = tempfile.mkdtemp(prefix="lk-ray-", dir=None if roomy else "/tmp")
                _start(scratch, how)
        with _failures_in_a_line():
            yield
    finally:
        ray.shutdown()
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _join(address: str, how: dict[str, Any]) -> None:
    try:
        _knock(address)
        ray.init(address=address, **how)
    except (OSError, RayError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address}: {_in_a_line(error)}; start one or drop --address"
        ) from error


def _start(scratch: str, how: dict[str, Any]) -> None:
    try:
        ray.init(include_dashboard=False, _temp_dir=scratch, **how)
    except Exception as error:  # a start-up that takes too long ends in a bare Exception
        raise JobFailed(
            f"Ray could not be started on this machine: {_in_a_line(error)}; try again when the machine is less busy, "
            f"or name a running cluster with --address (--verbose shows Ray's own messages)"
        ) from error


@contextmanager
def _failures_in_a_line() -> Iterator[None]:
    """What escapes of Ray's own errors, whose messages are pages long, becomes one of ours."""
    try:
        yield
    except RayError as error:
        raise cause(error) from error


def _in_a_line(error: BaseException, most: int = 200) -> str:
    """The start of an error's message, in one line."""
    return textwrap.shorten(str(error), most, placeholder=" …") or type(error).__name__


def _knock(address: str) -> None:
    """Raises OSError at once when nobody listens at HOST:PORT; Ray itself would go on asking for minutes."""
    host, _, port = address.rpartition(":")
    if host and "://" not in address:
        socket.create_connection((host, int(port)), timeout=10).close()


def cpus() -> int:
    """CPUs of the whole connected cluster."""
    return int(ray.cluster_resources().get("CPU", 0))


def gpus() -> int:
    """GPUs of the whole connected cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


Node = tuple[int, int]
"""The CPUs and the GPUs of one machine of a cluster."""


def nodes() -> list[Node]:
    """The living nodes of the connected cluster."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in found]


def room(nodes: list[Node], cpus: int, gpus: int = 0) -> int:
    """How many workers with so many CPUs, at least 1, and GPUs each the nodes hold: a worker is never on two nodes."""
    return sum(min(has_cpus // cpus, has_gpus // gpus if gpus else has_cpus) for has_cpus, has_gpus in nodes)


def even_share(nodes: list[Node], workers: int) -> int:
    """The most CPUs that each of so many workers can have; 1 where the nodes do not even have that."""
    most = max((cpus for cpus, _ in nodes), default=1)
    return next((each for each in range(most, 1, -1) if room(nodes, each) >= workers), 1)


def require_shared(uris: list[str], files: Iterable[str] = ()) -> None:
    """With more than one node, local folders must look the same on all of them, and ``files`` that are here be there.

    Raises:
        ConfigError: a local path is not there, or is another folder, on some node.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    local = [uri for uri in uris if storage.is_local(uri)]
    here = [file for file in files if storage.is_local(file) and storage.exists(file)]
    if not (local or here):
        return
    # A finished artefact shows itself by its manifest; where there is none yet, a file of ours does.
    token = f".shared-{socket.gethostname()}-{os.getpid()}"
    markers = {uri: storage.join(uri, manifest.NAME) for uri in local}
    ours = [uri for uri, marker in markers.items() if not storage.exists(marker)]
    markers |= {file: file for file in here}
    for uri in ours:
        markers[uri] = storage.join(uri, token)
        storage.write_bytes(markers[uri], b"")
    try:
        look = ray.remote(num_cpus=0)(lambda: [uri for uri, marker in markers.items() if not storage.exists(marker)])
        seen = ray.get([look.options(label_selector={"ray.io/node-id": node["NodeID"]}).remote() for node in nodes])
    finally:
        for uri in ours:
            storage.remove(markers[uri])
    absent = sorted({uri for uris in seen for uri in uris})
    if absent:
        raise ConfigError(
            f"the cluster has {len(nodes)} nodes and not all of them see {', '.join(absent)}; use a shared file system "
            f"or an object store"
        )


def cause(error: BaseException) -> LikenessError:
    """Our own error inside one of Ray's, or a JobFailed that carries the worker's last line."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, RayTaskError) and isinstance(inner.cause, LikenessError):
            return inner.cause  # Ray's error is one of ours too, but its message is a traceback
        if isinstance(inner, LikenessError):
            return inner
        inner = inner.__cause__
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return JobFailed(
        f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'} (--verbose shows the whole)"
    )
