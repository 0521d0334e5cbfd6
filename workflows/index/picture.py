"""A picture of how much work each recall takes."""

import io

from metric_core import storage
from metric_core.index.layout import Content


def draw(content: Content, out: str) -> None:
    """Write a PNG: recall of people and of vectors against the work per probe, and the parameters that were chosen.

    Args:
        content: of a version's manifest.
        out: address of the PNG.
    """
    from matplotlib.figure import Figure  # takes a second to import, and is rarely needed

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    curve = content.recall["curve"]
    work = [point["work"] / 1000 for point in curve]
    shown = {"identity": "right person first", "first": "nearest vector", "recall": "10 nearest vectors"}
    for name, label in shown.items():
        axes.plot(work, [point[name] for point in curve], marker="o", label=label)
    axes.plot(content.recall["work"] / 1000, content.recall["identity"], "k*", markersize=14, label="chosen")
    axes.set_xscale("log")
    axes.set_xlabel("estimated µs of one core per probe")
    axes.set_ylabel(f"recall of {content.recall['probes']} held-out probes")
    axes.set_title(f"{content.spec.factory}, {content.rows:,} vectors, nprobe {content.nprobe}, depth {content.depth}")
    axes.grid(alpha=0.3)
    axes.legend()
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=120)
    storage.write_bytes(out, sink.getvalue())
