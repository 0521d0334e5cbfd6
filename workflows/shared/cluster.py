"""Ray for the length of a job: a running cluster if one is named, else a local one that is stopped afterwards.

Also what the connected cluster has room for, whether its nodes see the same files, and our errors behind Ray's.
"""

import logging
import os
import resource
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
from workflows.shared import stopping
from workflows.shared.options import RunOptions

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else every line of a worker is shown twice
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the controller's poll; its default of 2 s delays every report
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # 60 s are too few for a busy machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the new behaviour; unset, Ray warns about the old one
}

KEEP_MEMORY = {"env_vars": {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}}
"""Runtime environment of processes that run a network on CPUs. By default glibc returns the memory of large tensors to
the system, which zeroes it page by page for the next ones: half of the time that embedding takes (mallopt(3)). One
arena, because the work is done in threads, and a thread's own arena holds no block above 64 MB."""


OPEN_FILES, FILE_BYTES = 1024, 64 << 20
"""Limits of a process below which the Ray that is started here fails, as measured, with room for a few workers."""


@contextmanager
def connected(options: RunOptions) -> Iterator[None]:
    """Be connected to Ray while the block runs. A local cluster is stopped afterwards; one that was running before is
    left running.

    Raises:
        ConfigError: no cluster answers at the address.
        JobFailed: no local cluster could be started, or Ray failed in the block, for example because an actor died.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        with _ray_errors_as_ours():
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
        with warnings.catch_warnings(), stopping.kept():
            warnings.simplefilter("default" if options.verbose else "ignore")
            if address:
                _join(address, how)
            else:
                # A folder of our own, so that none of Ray's files stay behind. Ray appends some 75 characters to its
                # path, and the path of a socket has at most 107.
                roomy = len(tempfile.gettempdir()) <= 20
                scratch = tempfile.mkdtemp(prefix="lk-ray-", dir=None if roomy else "/tmp")
                _start(scratch, how)
        with _ray_errors_as_ours():
            yield
    finally:
        ray.shutdown()
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _join(address: str, how: dict[str, Any]) -> None:
    try:
        _require_listener(address)
        ray.init(address=address, **how)
    except (OSError, RayError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address}: {_one_line(error)}; start one or drop --address"
        ) from error


def _start(scratch: str, how: dict[str, Any]) -> None:
    _require_limits()
    try:
        ray.init(include_dashboard=False, _temp_dir=scratch, **how)
    except Exception as error:  # a start-up that takes too long ends in a bare Exception
        raise JobFailed(
            f"Ray could not be started on this machine: {_one_line(error)}; try again when the machine is less busy, "
            f"or name a running cluster with --address (--verbose shows Ray's own messages)"
        ) from error


def _require_limits() -> None:
    """Raises ConfigError when this process's own limits leave Ray too few open files, or too short ones; its processes
    would die without saying why."""
    needed = {resource.RLIMIT_NOFILE: OPEN_FILES, resource.RLIMIT_FSIZE: FILE_BYTES}
    words = {resource.RLIMIT_NOFILE: "open files (ulimit -n)", resource.RLIMIT_FSIZE: "bytes of a file (ulimit -f)"}
    problems = []
    for what, least in needed.items():
        soft, hard = resource.getrlimit(what)
        if 0 <= soft < least and (hard < 0 or hard >= least):
            resource.setrlimit(what, (least, hard))
        elif 0 <= soft < least:
            problems.append(f"this process is limited to {soft} {words[what]}; Ray needs {least}: raise the limit")
    if problems:
        raise ConfigError.of(problems)


@contextmanager
def _ray_errors_as_ours() -> Iterator[None]:
    """Replace Ray's errors, whose messages are pages long, by one of ours."""
    try:
        yield
    except RayError as error:
        raise as_likeness_error(error) from error


def _one_line(error: BaseException, most: int = 200) -> str:
    """The start of an error's message, in one line."""
    return textwrap.shorten(str(error), most, placeholder=" …") or type(error).__name__


def _require_listener(address: str) -> None:
    """Raises OSError at once if nothing listens at HOST:PORT; Ray itself would try for minutes."""
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
"""Numbers of CPUs and GPUs of one machine of a cluster."""


def nodes() -> list[Node]:
    """The live nodes of the connected cluster."""
    found = [node["Resources"] for node in _live_nodes()]
    return [(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in found]


def _live_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def require_memory(bytes_needed: int, remedy: str) -> None:
    """Check that some node of the connected cluster has so much memory for one task, which would wait for ever else.

    Raises:
        ConfigError: none has; ``remedy`` completes the message.
    """
    most = max((int(node["Resources"].get("memory", 0)) for node in _live_nodes()), default=0)
    if bytes_needed > most:
        raise ConfigError(
            f"a task needs {bytes_needed / 2**30:.1f} GiB of memory, no node has over {most / 2**30:.1f} GiB; {remedy}"
        )


def workers_that_fit(nodes: list[Node], cpus: int, gpus: int = 0) -> int:
    """How many workers, each with ``cpus`` CPUs (1 or more) and ``gpus`` GPUs, fit; a worker never spans two nodes."""
    return sum(min(has_cpus // cpus, has_gpus // gpus if gpus else has_cpus) for has_cpus, has_gpus in nodes)


def cpus_per_worker(nodes: list[Node], workers: int) -> int:
    """The most CPUs that each of ``workers`` workers can have; 1 if there are not even that many."""
    most = max((cpus for cpus, _ in nodes), default=1)
    return next((each for each in range(most, 1, -1) if workers_that_fit(nodes, each) >= workers), 1)


def require_shared(uris: list[str], files: Iterable[str] = ()) -> None:
    """Check that all nodes of the connected cluster see the same local folders ``uris``, and those of ``files`` that
    exist on this node. Object-store addresses need no check.

    Raises:
        ConfigError: on some node a folder is another one, or a folder or file is missing.
    """
    nodes = _live_nodes()
    if len(nodes) < 2:
        return
    local = [uri for uri in uris if storage.is_local(uri)]
    here = [file for file in files if storage.is_local(file) and storage.exists(file)]
    if not (local or here):
        return
    # A folder is recognised by its manifest, or, if it has none yet, by a file that is written for this check.
    token = f".shared-{socket.gethostname()}-{os.getpid()}"
    markers = {uri: storage.join(uri, manifest.NAME) for uri in local}
    written = [uri for uri, marker in markers.items() if not storage.exists(marker)]
    markers |= {file: file for file in here}
    for uri in written:
        markers[uri] = storage.join(uri, token)
        storage.write_bytes(markers[uri], b"")
    try:
        look = ray.remote(num_cpus=0)(lambda: [uri for uri, marker in markers.items() if not storage.exists(marker)])
        seen = ray.get([look.options(label_selector={"ray.io/node-id": node["NodeID"]}).remote() for node in nodes])
    finally:
        for uri in written:
            storage.remove(markers[uri])
    absent = sorted({uri for uris in seen for uri in uris})
    if absent:
        raise ConfigError(
            f"the cluster has {len(nodes)} nodes and not all of them see {', '.join(absent)}; use a shared file system "
            f"or an object store"
        )


def as_likeness_error(error: BaseException) -> LikenessError:
    """Our error inside one of Ray's, or else a JobFailed with the last line of Ray's message."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, RayTaskError) and isinstance(inner.cause, LikenessError):
            return inner.cause  # Ray's error is an instance of ours as well, but its message is a traceback
        if isinstance(inner, LikenessError):
            return inner
        inner = inner.__cause__
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return JobFailed(
        f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'} (--verbose shows the full message)"
    )
