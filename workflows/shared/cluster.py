"""Ray for the length of a job: a running cluster if one is named, else a local one that is stopped afterwards.

Also what the connected cluster has room for, and our errors behind Ray's. Whether its nodes can do the work is in
``preflight``.
"""

import logging
import os
import resource
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import ray
import ray._private.utils
from ray._private import ray_constants, services
from ray._private.authentication import authentication_token_setup as tokens
from ray._private.gcs_utils import create_gcs_channel
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # compiled
from ray.core.generated import gcs_service_pb2_grpc
from ray.core.generated.gcs_service_pb2 import CheckAliveRequest  # type: ignore[attr-defined]  # generated
from ray.exceptions import AuthenticationError, RayError, RayTaskError

from metric_core import storage
from metric_core.errors import ConfigError, JobFailed, LikenessError
from workflows.shared import stopping
from workflows.shared.console import one_line, say
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


KNOCK_S = 10.0
"""Seconds in which a running cluster must answer."""
USUAL_UMASK = 0o022
"""That of nodes."""
OPEN_FILES, FILE_BYTES = 1024, 64 << 20
"""Limits of a process below which the Ray that is started here fails, as measured, with room for a few workers."""


_started_here: list[str] = []
"""The folder of the cluster that this process has started."""


@contextmanager
def connected(options: RunOptions) -> Iterator[None]:
    """Be connected to Ray while the block runs. A local cluster is stopped afterwards; one that was running before is
    left running.

    Raises:
        ConfigError: no cluster answers at the address, or it refuses the token or this version of Ray or Python.
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
        with warnings.catch_warnings(), _command_without_secrets(), stopping.kept():
            warnings.simplefilter("default" if options.verbose else "ignore")
            if address:
                _join(address, how)
            else:
                # A folder of our own, so that none of Ray's files stay behind and nobody else reads them. Ray appends
                # some 75 characters to its path, and the path of a socket has at most 107.
                roomy = len(tempfile.gettempdir()) <= 20
                scratch = tempfile.mkdtemp(prefix="lk-", dir=None if roomy else "/tmp")
                _start(scratch, how)
                _started_here.append(scratch)
        with _ray_errors_as_ours():
            yield
    finally:
        ray.shutdown()
        if scratch:
            _started_here.clear()
            shutil.rmtree(scratch, ignore_errors=True)


def private_folder() -> str | None:
    """A folder of this machine for this account only, for as long as the cluster lives; None unless this process has
    started the cluster, which is this machine then."""
    return next(iter(_started_here), None)


def _join(address: str, how: dict[str, Any]) -> None:
    try:
        if "://" not in address and (place := services.canonicalize_bootstrap_address(address)):
            _knock(place if address == "auto" else address, place)
        ray.init(address=address, **how, **_same_umask())
    except (OSError, RayError, ValueError, RuntimeError, grpc.RpcError) as error:
        text = error.details() if isinstance(error, grpc.RpcError) else one_line(error)
        raise ConfigError(
            storage.without_secrets(f"no Ray cluster answers at {address}: {text}; start one or drop --address")
        ) from error


def _same_umask() -> dict[str, Any]:
    """What makes the workers of a running cluster write files for whom this process does; those of one that is started
    here have its umask."""
    umask = os.umask(0o077)
    os.umask(umask)
    if umask == USUAL_UMASK:
        return {}
    return {"runtime_env": {"worker_process_setup_hook": lambda: os.umask(umask)}}


def _knock(address: str, place: str) -> None:
    """Ask the cluster at ``place``, HOST:PORT, whether it is there and takes our token. Ray itself would ask for a
    minute, with a line a second on stderr.

    Raises:
        ConfigError: it refuses the token.
        grpc.RpcError: nothing answers within ``KNOCK_S``, or something else does.
    """
    tokens.logger.setLevel(logging.ERROR)  # it would warn that a token is used
    tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # Ray uses it for the address auto only
    try:
        with create_gcs_channel(place) as channel:
            head = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
            head.CheckAlive(CheckAliveRequest(), timeout=KNOCK_S)
    except (grpc.RpcError, AuthenticationError) as error:
        refused = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        if isinstance(error, grpc.RpcError) and error.code() not in refused:
            raise
        has_one = AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
        found = "the token of this process is another one" if has_one else "this process has no token"
        if os.environ.get(tokens.AUTH_MODE_ENV_VAR, "token").lower() != "token":
            found = f"{tokens.AUTH_MODE_ENV_VAR} says that this process shows none"
        raise ConfigError(
            f"Ray at {address} answers but refuses the token ({found}); set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to "
            f"the cluster's"
        ) from error


@contextmanager
def _command_without_secrets() -> Iterator[None]:
    """Ray lists each driver's command line for whoever may see the cluster's jobs: no address in it keeps a password
    while the block runs."""
    whole = ray._private.utils.get_entrypoint_name
    ray._private.utils.get_entrypoint_name = lambda: storage.without_secrets(whole())  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        ray._private.utils.get_entrypoint_name = whole


def _start(scratch: str, how: dict[str, Any]) -> None:
    _require_limits()
    try:
        with _loopback():
            _make_token()
            try:
                # Ray lets everybody into the folder that it is given, so it gets one inside.
                _init(f"{scratch}/r", how)
            except Exception as error:  # noqa: BLE001  # over 30 s, or another process took a port that was free
                say(f"Ray did not start ({one_line(error)}); trying once more")
                ray.shutdown()
                _init(f"{scratch}/s", how)
    except Exception as error:  # a start-up that takes too long ends in a bare Exception
        raise JobFailed(
            f"Ray could not be started on this machine: {one_line(error)}; try again when the machine is less busy, "
            f"or name a running cluster with --address (--verbose shows Ray's own messages)"
        ) from error


def _init(folder: str, how: dict[str, Any]) -> None:
    ray.init(include_dashboard=False, _temp_dir=folder, _node_ip_address="127.0.0.1", **how)


def _make_token() -> None:
    """Ray makes a token for a cluster that it starts, in a file that everybody may read: it is made here, privately."""
    tokens.logger.setLevel(logging.ERROR)  # it would warn that a token is used
    with storage.private():
        if tokens.enable_token_auth_by_default():
            tokens.ensure_token_if_auth_enabled()
    made = Path.home() / ".ray" / "auth_token"
    if made.exists():
        storage.make_private(str(made))  # perhaps Ray itself made it


@contextmanager
def _loopback() -> Iterator[None]:
    """A Ray that is started in the block listens on the loopback device alone, as it does by itself on macOS: elsewhere
    it replaces 127.0.0.1 by an address that other machines reach."""
    name, whole = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    before = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False  # its processes, and this one
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = whole
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


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
    found = [node["Resources"] for node in live_nodes()]
    return [(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in found]


def live_nodes() -> list[dict[str, Any]]:
    """What Ray says of each live node of the connected cluster."""
    return [node for node in ray.nodes() if node["Alive"]]


def require_memory(bytes_needed: int, remedy: str) -> None:
    """Check that some node of the connected cluster has so much memory for one task, which would wait for ever else.

    Raises:
        ConfigError: none has; ``remedy`` completes the message.
    """
    most = max((int(node["Resources"].get("memory", 0)) for node in live_nodes()), default=0)
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
