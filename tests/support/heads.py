"""A Ray head with its job server for the length of a test, nodes that join it, free ports, and the end of what a test
has started."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen
from uuid import uuid4

import psutil
from support.drivers import until


@dataclass(frozen=True)
class Head:
    """Where a head is."""

    address: str
    """HOST:PORT of Ray itself."""
    url: str
    """Of its job server, which may still be starting."""
    folder: Path
    """Of Ray's files."""


@contextmanager
def head(environment: Mapping[str, str], cpus: int, folder: Path | None = None, *more: str) -> Iterator[Head]:
    """A new head on loopback while the block runs.

    Args:
        environment: its variables.
        cpus: that it has.
        folder: where it is started; None: here.
        more: options of ``ray start``.
    """
    scratch = Path(f"/tmp/lk-head-{os.getpid()}")  # short: it holds sockets
    ray, jobs = free_ports(2)
    where = [f"--port={ray}", f"--dashboard-port={jobs}", "--dashboard-host=127.0.0.1", f"--temp-dir={scratch}"]
    process = _started(environment, cpus, folder, "--head", "--include-dashboard=true", *where, *more)
    try:
        yield Head(f"127.0.0.1:{ray}", f"http://127.0.0.1:{jobs}", scratch)
    finally:
        # Not `ray stop`, which would stop every Ray of this machine; and killed, because its agents take 20 s to end.
        kill_family(process.pid)
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def node(environment: Mapping[str, str], cpus: int, of: Head, folder: Path | None = None) -> Iterator[int]:
    """Another node of a head's cluster while the block runs, unless the test kills it; the number of its first process.
    The head knows it when the block begins. Arguments as those of ``head``."""
    name = uuid4().hex
    options = [f"--address={of.address}", f"--node-name={name}"]
    process = _started(environment, cpus, folder, *options)

    def joined() -> bool:
        nonlocal process
        if process.poll() is not None:  # the head took longer to start than Ray waits, or a free port was taken
            process = _started(environment, cpus, folder, *options)
        return name in _alive(of, environment)

    try:
        until(joined, "a node has joined")
        yield process.pid
    finally:
        if process.poll() is None:
            kill_family(process.pid)


def _started(
    environment: Mapping[str, str], cpus: int, folder: Path | None, *options: str
) -> "subprocess.Popen[bytes]":
    # A port of the agent that starts jobs: it serves none if another Ray has its usual one.
    argv = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--node-ip-address=127.0.0.1"]
    argv += [f"--num-cpus={cpus}", f"--dashboard-agent-listen-port={free_ports(1)[0]}", *options]
    return subprocess.Popen(argv, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _alive(of: Head, environment: Mapping[str, str]) -> list[str]:
    """The names of the nodes that a head knows; none while its server does not answer."""
    login = {"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"} if "RAY_AUTH_TOKEN" in environment else {}
    try:
        with urlopen(Request(f"{of.url}/api/v0/nodes", headers=login), timeout=10) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
    except OSError:
        return []
    return [node["node_name"] for node in nodes if node["state"] == "ALIVE"]


def kill_family(pid: int) -> None:
    """Kill a process and all that it has started."""
    family = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=20)


def free_ports(count: int) -> list[int]:
    """Different ports of loopback where nothing listens."""
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in listening]
    for one in listening:
        one.close()
    return ports


def closed_port() -> str:
    """``HOST:PORT`` where nothing listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"
