"""A Ray cluster of several nodes on this machine, made to lose processes and nodes while a job runs on it."""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from ray.cluster_utils import Cluster

CPUS = 2
"""CPUs per node; the head has none, so that no work runs there."""
QUICK = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
"""A lost node is noticed after two seconds instead of fifteen."""


class Nodes:
    """Two nodes beside the head, which can be killed while a job runs on them."""

    def __init__(self) -> None:
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK},
        )
        for _ in range(2):
            self.add()

    @property
    def address(self) -> str:
        """For ``--address``."""
        return str(self._cluster.address)

    def lose(self, draw: random.Random) -> None:
        """Kill a node with all its processes, and let another one join."""
        self.remove(draw)
        self.add()

    def remove(self, draw: random.Random) -> None:
        """Kill a node with all its processes."""
        nodes = sorted(self._cluster.worker_nodes, key=lambda node: node.unique_id)
        self._cluster.remove_node(draw.choice(nodes), allow_graceful=False)

    def add(self) -> None:
        """Let a node join."""
        self._cluster.add_node(wait=False, num_cpus=CPUS)
        self._cluster.wait_for_nodes(timeout=180)

    def lose_worker(self, draw: random.Random, title: str) -> bool:
        """Kill a worker process whose title begins with ``title``; False if there is none at the moment."""
        found = [process for process in self._workers() if _title(process).startswith(title)]
        if not found:
            return False
        draw.choice(found).kill()
        return True

    def close(self) -> None:
        """Stop everything that this started."""
        ours = [*self._raylets(), *self._workers()]
        self._cluster.shutdown()
        for process in ours:
            with _gone():
                process.kill()
        psutil.wait_procs(ours, timeout=60)

    def _raylets(self) -> list[psutil.Process]:
        nodes = [self._cluster.head_node, *self._cluster.worker_nodes]
        return [psutil.Process(one.process.pid) for node in nodes for one in node.all_processes["raylet"]]

    def _workers(self) -> list[psutil.Process]:
        return sorted((p for raylet in self._raylets() for p in raylet.children(recursive=True)), key=lambda p: p.pid)


@contextmanager
def nodes() -> Iterator[Nodes]:
    """A cluster for the length of the block."""
    with apart():
        found = Nodes()
        try:
            yield found
        finally:
            found.close()


@contextmanager
def apart() -> Iterator[None]:
    """A folder of its own for a cluster that is started in the block. Ray notes the address of the last one in its
    folder, where every ``ray.init()`` of this machine would find it."""
    before = os.environ.get("RAY_TMPDIR")
    folder = os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="lk-nodes-", dir="/tmp")  # short: it holds sockets
    try:
        os.mkdir(f"{folder}/ray")
        yield
    finally:
        del os.environ["RAY_TMPDIR"]
        if before is not None:
            os.environ["RAY_TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _title(process: psutil.Process) -> str:
    with _gone():
        return " ".join(process.cmdline())
    return ""


@contextmanager
def _gone() -> Iterator[None]:
    """Ignores that a process has ended by itself."""
    try:
        yield
    except psutil.NoSuchProcess:
        return
