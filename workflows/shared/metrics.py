"""Figures of a running job for Prometheus, through Ray's metrics: every node of a cluster offers those of its processes
on its metrics port. The dashboard of ``infra/grafana`` shows them. MLflow, which keeps them, is in ``tracking``.
"""

import math
from collections.abc import Mapping
from functools import cache

from ray.util.metrics import Gauge

GAUGES = {
    "done": "Steps, faces or shards done",
    "total": "Steps, faces or shards of the whole job",
    "images_per_second": "Pictures per second, all workers together",
    "loss": "Loss of the last reported step of a training",
    "active_fraction": "Share of triplets or anchors that still cost something",
    "bad_fraction": "Share of the pictures drawn by a training that cannot be read",
    "rejected": "Faces that could not be embedded",
}
"""{figure: what it is}. Ray offers each as ``ray_likeness_<figure>``."""
TAGS = ("job", "run")
"""What tells jobs apart: the subcommand, and the name of the folder that it writes."""


def publish(job: str, out: str, figures: Mapping[str, float]) -> None:
    """Set the gauges of those figures that have one and are finite; takes microseconds each.

    ``out``, the folder or address that the job writes, is shown by its last name only.
    """
    run = out.rstrip("/").rpartition("/")[2].encode("ascii", "backslashreplace").decode()  # Ray takes nothing else
    tags = dict(zip(TAGS, (job, run)))
    for name in figures.keys() & GAUGES.keys():
        if math.isfinite(figures[name]):
            _gauge(name).set(float(figures[name]), tags=tags)


@cache
def _gauge(name: str) -> Gauge:
    return Gauge(f"likeness_{name}", description=GAUGES[name], tag_keys=TAGS)
