"""Bulk embedding beside a bare loop and beside Ray Data, what planning and scheduling cost, and whether memory is flat.

    python tests/bench/embedding.py [--quick] [--json]

All embed the same drawn faces of 112 pixels with the same small network on two threads; start-up, until the first
network is loaded, is reported separately. Each run has a fresh process; rounds alternate and medians are shown. The
peers are programs as one would write them; only our processes keep their memory (``cluster.KEEP_MEMORY``).
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import table
import torch
from table import Case, less, more

from metric_core.artefacts import embeddings, manifest
from metric_core.artefacts.faces import Faces
from metric_core.image.preprocess import preprocess
from metric_core.image.spec import Preprocessing
from metric_core.model import bundle
from metric_core.model.embedder import Embedder
from metric_core.model.spec import ModelSpec, backbone_spec
from workflows.demo import drawn

SIZE, DIM, THREADS, BATCH = 112, 256, 2, 128
NOOPS = 10_000


@dataclass(frozen=True)
class Place:
    """The folder of everything that all runs share."""

    folder: str

    @property
    def model(self) -> str:
        """The network."""
        return f"{self.folder}/model"

    def faces(self, count: int) -> str:
        """A catalogue of this many faces."""
        return f"{self.folder}/faces-{count}"

    def paths(self, count: int) -> list[str]:
        """Their pictures."""
        pictures = sorted(str(path) for path in Path(self.folder, "pictures").rglob("*.jpg"))
        return [pictures[n % len(pictures)] for n in range(count)]

    def prepare(self, counts: set[int]) -> None:
        """Draw pictures, catalogue them as often as needed, and save a network."""
        from workflows.catalogue import job as catalogue
        from workflows.catalogue.config import CatalogueConfig

        drawn.write_people(Path(self.folder, "pictures"), range(40), pictures=10, seed=1, size=SIZE)
        torch.manual_seed(0)
        spec = ModelSpec(
            backbone_spec("plain", norm="group", dim=DIM),
            Preprocessing(size=SIZE, colour="rgb"),
            standardise=False,
            flip_average=False,
            distance="cosine",
        )
        bundle.save(Embedder(spec), self.model, operating_points=[], provenance={})
        for count in counts:
            listed = Path(self.folder, f"list-{count}.csv")
            lines = [f"{path},{Path(path).parent.name},{n}" for n, path in enumerate(self.paths(count))]
            listed.write_text("\n".join(["path,identity,key", *lines]) + "\n")
            catalogue.run(CatalogueConfig(source=str(listed), out=self.faces(count)))


def ours(place: Place, count: int) -> dict[str, float]:
    """The embed job, with the peak memory of its processes in MB."""
    from workflows.embed import job as embed
    from workflows.embed.config import EmbedConfig

    out = tempfile.mkdtemp(dir=place.folder)
    with _peaks() as peaks:
        config = EmbedConfig(faces=place.faces(count), model=place.model, out=f"{out}/out", batch=BATCH, unit_size=1024)
        answer = embed.run(config)
    shutil.rmtree(out)
    rate, startup = answer["images_per_second"], answer["startup_seconds"]
    return {"images_per_second": rate, "startup_seconds": startup, **peaks}


def bare_loop(place: Place, count: int) -> dict[str, float]:
    """One process that decodes a batch on its threads, embeds it on its threads, and writes everything at the end."""
    torch.set_num_threads(THREADS)
    model = bundle.load(place.model)
    how = model.embedder.spec.preprocessing
    paths = place.paths(count)
    vectors, norms = [], []
    start = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, count, BATCH):
            some = paths[first : first + BATCH]
            pixels = np.stack(list(pool.map(lambda path: preprocess(Path(path).read_bytes(), how), some)))
            vector, norm = model.embedder.embed(torch.from_numpy(pixels))
            vectors.append(vector)
            norms.append(norm)
    table = embeddings.to_table(np.arange(count), paths, [None] * count, np.concatenate(vectors), np.concatenate(norms))
    pa.parquet.write_table(table, f"{place.folder}/bare.parquet", compression="zstd")
    return {"images_per_second": count / (time.monotonic() - start)}


def ray_data(place: Place, count: int) -> dict[str, float]:
    """Paths through two actors that decode and embed a batch, into Parquet, as Ray Data's own examples do."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    model_uri, folder = place.model, place.folder

    class Embed:
        def __init__(self) -> None:
            model = bundle.load(model_uri)
            self.embedder, self.how = model.embedder, model.embedder.spec.preprocessing
            Path(folder, f"ready-{os.getpid()}").write_text(str(time.time()))

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
            pixels = np.stack([preprocess(Path(path).read_bytes(), self.how) for path in batch["path"]])
            vector, norm = self.embedder.embed(torch.from_numpy(pixels))
            return {"path": batch["path"], "embedding": vector, "norm": norm}

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    paths = ray.data.from_items([{"path": path} for path in place.paths(count)])
    done = paths.map_batches(Embed, batch_size=BATCH, compute=ActorPoolStrategy(size=THREADS))
    out = tempfile.mkdtemp(dir=folder)
    done.write_parquet(out)
    end = time.time()
    ray.shutdown()
    started = min(float(path.read_text()) for path in Path(folder).glob("ready-*"))
    for path in Path(folder).glob("ready-*"):
        path.unlink()
    shutil.rmtree(out)
    return {"images_per_second": count / (end - started)}


def plan(folder: str) -> dict[str, float]:
    """Seconds from a catalogue's address to its units and which of them are done; the peak memory of the process."""
    from workflows.embed import units
    from workflows.embed.done import DoneUnits
    from workflows.embed.store import UnitStore

    start = time.monotonic()
    faces = Faces.open(folder)
    todo = units.cut(faces.parts, 2048)
    DoneUnits(UnitStore(f"{folder}/none"), todo).todo(retry=False)
    assert sum(unit.last - unit.first for unit in todo) == faces.count(None)
    return {"seconds": time.monotonic() - start, "driver_mb": _peak_mb()}


def noops(count: int) -> dict[str, float]:
    """Seconds for units without work, on two actors."""
    import ray

    from metric_core.artefacts.rows import Part
    from workflows.embed import units
    from workflows.embed.pool import ActorPool
    from workflows.shared import cluster
    from workflows.shared.options import RunOptions

    @ray.remote(num_cpus=1, max_concurrency=2)
    class Noop:
        def ready(self) -> None:
            pass

        def work(self, unit: units.Unit, decoded: None) -> int:
            return unit.number

    todo = units.cut([Part("faces-000000.parquet", count, "")], 1)
    with cluster.connected(RunOptions()):
        pool = ActorPool(Noop.remote, THREADS)
        assert sorted(number for _, number in pool.run(todo)) == list(range(count))
        return {"seconds": pool.elapsed}


def fresh(run: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    """The result of a function that runs in a separate process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    handle, log = tempfile.mkstemp(prefix="likeness-bench-")
    os.close(handle)
    child = context.Process(target=_send, args=(sender, log, run, args))
    child.start()
    sender.close()
    try:
        answer: dict[str, float] = receiver.recv()
        figures = ", ".join(f"{name} {value:.4g}" for name, value in answer.items())
        print(f"{run.__name__}: {figures}", file=sys.stderr, flush=True)
        return answer
    except EOFError:
        raise RuntimeError(f"{run.__name__} failed: {Path(log).read_text()[-4000:]}") from None
    finally:
        child.join()
        os.unlink(log)


def _send(sender: Any, log: str, run: Callable[..., dict[str, float]], args: Any) -> None:
    os.dup2(os.open(log, os.O_WRONLY), sys.stderr.fileno())  # its messages are shown only if it fails
    sender.send(run(*args))


@contextlib.contextmanager
def _peaks() -> Iterator[dict[str, float]]:
    """Highest resident memory of this process and of the actors together while the block runs."""
    peaks = {"driver_mb": 0.0, "actors_mb": 0.0}
    done = threading.Event()

    def look() -> None:
        me = psutil.Process()
        while not done.wait(0.2):
            actors = 0
            for child in me.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if child.name().startswith("ray::EmbedWorker"):
                        actors += child.memory_info().rss
            peaks["actors_mb"] = max(peaks["actors_mb"], actors / 1e6)
            peaks["driver_mb"] = max(peaks["driver_mb"], me.memory_info().rss / 1e6)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


def throughput(place: Place, count: int, rounds: int) -> list[Case]:
    """Images per second of all three, and our start-up."""
    taken: dict[str, list[dict[str, float]]] = {"ours": [], "bare_loop": [], "ray_data": []}
    for _ in range(rounds):
        for run in (ours, bare_loop, ray_data):
            taken[run.__name__].append(fresh(run, place, count))
    rate = {name: statistics.median(t["images_per_second"] for t in all_) for name, all_ in taken.items()}
    cases = [
        more(f"{name}/images_per_second", rate["ours"], rate[name], "images/s") for name in ("bare_loop", "ray_data")
    ]
    startup = statistics.median(t["startup_seconds"] for t in taken["ours"])
    return [*cases, less("startup/seconds", startup, None, "s")]


def memory(place: Place, few: int, many: int) -> list[Case]:
    """Peak memory with many images (in the column ours) and with few (in the column peer)."""
    small, large = fresh(ours, place, few), fresh(ours, place, many)
    return [
        less(f"memory/{many:,}_over_{few:,}/{who}", large[who], small[who], "MB") for who in ("driver_mb", "actors_mb")
    ]


def scheduling(folder: str, rows: int) -> list[Case]:
    """Planning a catalogue of this size, which is minted unless it exists, and units without work."""
    import mint

    if not Path(folder, manifest.NAME).exists():
        start = time.monotonic()
        mint.mint(folder, rows)
        print(f"minted {rows:,} rows in {time.monotonic() - start:.0f} s", file=sys.stderr)
    size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
    planned = fresh(plan, folder)
    name = f"plan/{rows // 1_000_000}M_rows"
    return [
        less(f"{name}/disk", size, None, "MB"),
        less(f"{name}/seconds", planned["seconds"], None, "s"),
        less(f"{name}/driver_mb", planned["driver_mb"], None, "MB"),
        less(f"units/{NOOPS:,}_no-op/seconds", fresh(noops, NOOPS)["seconds"], None, "s"),
    ]


def main() -> None:
    parser = table.parser(__doc__, "fewer images and rows")
    parser.add_argument("--minted", metavar="FOLDER", help="a catalogue that mint.py has written, to be planned")
    options = parser.parse_args()
    count, few, many = (2_000, 1_000, 2_000) if options.quick else (20_000, 5_000, 50_000)
    with tempfile.TemporaryDirectory(prefix="likeness-bench-") as folder:
        place = Place(folder)
        place.prepare({count, few, many})
        minted = options.minted or f"{folder}/minted"
        rows = Faces.open(minted).count(None) if options.minted else 1_000_000 if options.quick else 100_000_000
        found = throughput(place, count, 1 if options.quick else 3)
        found += scheduling(minted, rows)
        found += memory(place, few, many)
    table.show(found, as_json=options.json)


if __name__ == "__main__":
    main()
