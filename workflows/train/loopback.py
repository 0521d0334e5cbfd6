"""A process group of workers on one machine that nobody else can reach.

Ray's own backend has the workers meet at a port of PyTorch (``TCPStore``), which listens on all interfaces and lets
everybody in. Here they meet in a private file.
"""

import os
import sys
import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)


@dataclass
class LoopbackConfig(TorchConfig):
    """As ``TorchConfig``, for workers on this machine."""

    folder: str = ""
    """Private folder of this machine."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What starts the process group."""
        return _LoopbackBackend


class _LoopbackBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: LoopbackConfig) -> None:  # type: ignore[override]
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        workers, meeting = len(worker_group), uuid.uuid4().hex  # each group meets anew
        worker_group.execute(_listen_on_loopback)
        worker_group.execute(_set_torch_distributed_env_vars)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend="nccl" if gpus else "gloo",
                    world_rank=rank,
                    world_size=workers,
                    init_method=f"file://{backend_config.folder}/{meeting}",
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(workers)
            ]
        )


def _listen_on_loopback() -> None:
    device = "lo0" if sys.platform == "darwin" else "lo"
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = device
