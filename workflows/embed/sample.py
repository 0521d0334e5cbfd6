"""Embeds a sample of the catalogue, to check that the precision is exact enough and to estimate the whole job."""

from dataclasses import asdict
from typing import Any

import ray
from ray.exceptions import RayError

from metric_core.errors import ConfigError
from workflows.embed import throughput
from workflows.embed.launcher import Launcher, pool_sizes, require_room
from workflows.embed.plan import EmbedPlan
from workflows.embed.units import Unit
from workflows.embed.worker import Sample
from workflows.shared import cluster
from workflows.shared.console import say

MIN_COSINE = 0.9999
"""Lowest cosine that is accepted between a sampled face's vectors in a faster precision and in float32."""
SAMPLES = 4
"""Number of batches in a sample, from units spread over the catalogue."""


def take(launcher: Launcher, units: list[Unit]) -> Sample:
    """Embed ``SAMPLES`` batches, spread over these units, on one worker.

    Raises:
        LikenessError: the one that the worker raised, or JobFailed with the cause.
    """
    worker = launcher.worker()
    try:
        ray.get(worker.ready.remote())
        step = max(1, len(units) // SAMPLES)
        spread = [unit for first in range(step) for unit in units[first::step]]
        sample: Sample = ray.get(worker.sample.remote(spread, SAMPLES))
        return sample
    except RayError as error:
        raise cluster.as_likeness_error(error) from error
    finally:
        ray.kill(worker)


def check_precision(precision: str, launcher: Launcher, units: list[Unit]) -> None:
    """Compare a sample's vectors in a faster precision with those in float32.

    Raises:
        ConfigError: the cosine between a face's vectors is below ``MIN_COSINE``.
    """
    if precision == "float32":
        return
    sample = take(launcher, units)
    if sample.cosine < MIN_COSINE:
        raise ConfigError(
            f"precision {precision} changes vectors too much: the lowest cosine to float32 over "
            f"{sample.embedded} faces is {sample.cosine:.6f}, {MIN_COSINE} is needed; use --precision float32"
        )
    say(f"precision {precision}: cosine to float32 is {sample.cosine:.6f} or more ({sample.embedded} faces)")


def dry_run(plan: EmbedPlan) -> dict[str, Any]:
    """Estimate from a sample what the whole job would take.

    Returns:
        {units, images, actors, decoders, bytes, seconds, images_per_second, slowest[, cost]}

    Raises:
        ConfigError: the cluster has too few CPUs or GPUs.
        DataError: there are no faces to measure.
    """
    require_room(plan.config)
    sizes = pool_sizes(plan.config, len(plan.units))
    sample = take(Launcher(plan.config, plan.setup), plan.units)
    found = throughput.estimate(sample, plan.total, sizes, plan.config.price_per_hour)
    return {"units": len(plan.units), "images": plan.total, **asdict(sizes), **found}
