"""The processes of an embed job: how many of each kind the cluster has room for, and how one is started."""

from typing import Any

import ray

from workflows.embed import decoding
from workflows.embed.config import EmbedConfig
from workflows.embed.decoding import DecodedBatch
from workflows.embed.pool import IN_FLIGHT
from workflows.embed.setup import Setup
from workflows.embed.throughput import PoolSizes
from workflows.embed.units import Unit
from workflows.embed.worker import EmbedWorker
from workflows.shared import cluster, preflight


def pool_sizes(config: EmbedConfig, units: int) -> PoolSizes:
    """How many processes of each kind share ``units`` units."""
    actors, decoders = _wanted(config)
    return PoolSizes(min(actors, max(1, units)), decoders)


def require_room(config: EmbedConfig) -> None:
    """Raises ConfigError if the cluster has too few CPUs or GPUs for what the options ask for, and no more to come."""
    cpus, gpus, (actors, decoders) = cluster.cpus(), cluster.gpus(), _wanted(config)
    preflight.require_room(
        not config.gpu or actors <= _on_gpus(config),
        f"actors is {actors} at {config.gpu_per_actor} GPUs each but the cluster has {gpus} GPUs",
    )
    preflight.require_room(
        actors + decoders <= cpus,
        f"actors is {actors} and decoders is {decoders} but the cluster has {cpus} CPUs",
    )


def _wanted(config: EmbedConfig) -> tuple[int, int]:
    """Actors and decoders."""
    cpus = cluster.cpus()
    actors = config.actors or max(1, _on_gpus(config) if config.gpu else cpus - (config.decoders or 0))
    decoders = config.decoders if config.decoders is not None else max(0, cpus - actors) if config.gpu else 0
    return actors, decoders


def _on_gpus(config: EmbedConfig) -> int:
    return int(cluster.gpus() / config.gpu_per_actor + 1e-9)


class Launcher:
    """Starts processes, which share one copy of the setup per node."""

    def __init__(self, config: EmbedConfig, setup: Setup) -> None:
        self._config, self._setup = config, ray.put(setup)

    def worker(self) -> Any:
        """The handle of a new ``EmbedWorker``, which may not be up yet.

        Ray does not restart it: a unit that it loses goes to whichever worker is free.
        """
        actor = ray.remote(EmbedWorker).options(
            num_cpus=1,
            num_gpus=self._config.gpu_per_actor if self._config.gpu else 0,
            max_concurrency=IN_FLIGHT,
            runtime_env=cluster.KEEP_MEMORY,
        )
        return actor.remote(self._setup)

    def decoded(self, unit: Unit) -> Any:
        """A reference to the list of a unit's ``DecodedBatch``, which a separate task makes."""
        return _decode.remote(self._setup, unit)


@ray.remote(max_retries=0)  # the pool hands a unit out again, and then carefully
def _decode(setup: Setup, unit: Unit) -> list[DecodedBatch]:
    return list(decoding.batches(setup, unit))
