"""Times and memory of the losses and miners beside pytorch-metric-learning, in one table.

    python tests/bench/mining.py [--quick] [--json]

Batches have 512 columns and 4 faces an identity; PyTorch uses 2 threads. Times are medians of runs that
alternate with the peer's; extra memory is the growth of a fresh process's peak above its inputs (Linux).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from pytorch_metric_learning import losses as peer_losses
from pytorch_metric_learning import miners as peer_miners
from torch import Tensor

from metric_core.learn.collective import World, all_gather_rows
from metric_core.learn.objective import Objective
from metric_core.learn.step import global_loss, new_memory

DIM, FACES, THREADS = 512, 4, 2
ONE = World(0, 1)
Run = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """One line of the table; a ratio above 1 means that ours is better."""

    case: str
    ours: float
    peer: float | None
    ratio: float | None
    unit: str


OBJECTIVES = {
    "batch_hard": Objective(miner="batch-hard"),
    "semi_hard": Objective(miner="semi-hard"),
    "all_triplets": Objective(miner="all", reduction="active"),
    "contrastive": Objective(loss="contrastive", margin=1.0),
    "multi_similarity": Objective(loss="multi-similarity", distance="cosine"),
    "softall": Objective(loss="softall", distance="cosine"),
    "batch_hard_memory": Objective(miner="batch-hard", memory_rows=65536, hardest_from_memory=True),
}


def inputs(n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random unit vectors, labels and face_ids, the same in every process."""
    draw = torch.Generator().manual_seed(0)
    emb_BD = torch.nn.functional.normalize(torch.randn(n_rows, DIM, generator=draw))
    return emb_BD, torch.arange(n_rows) // FACES, torch.randperm(n_rows, generator=draw)


def ours(name: str, n_rows: int) -> Run:
    """One forward and backward of ours."""
    emb_BD, label_B, face_id_B = inputs(n_rows)
    emb_BD.requires_grad_()
    memory = new_memory(OBJECTIVES[name], DIM, ONE, torch.float32, "cpu")
    if memory is not None:
        memory.enqueue(*inputs(memory.capacity), step=0)

    def run() -> None:
        emb_BD.grad = None
        outcome = global_loss(OBJECTIVES[name], ONE, emb_BD, label_B, face_id_B, seed=0, step=1, memory=memory)
        outcome.loss.backward()

    return run


def theirs(name: str, n_rows: int) -> Run:
    """The same with pytorch-metric-learning."""
    emb_BD, label_B, _ = inputs(n_rows)
    emb_BD.requires_grad_()
    triplet = peer_losses.TripletMarginLoss(margin=0.2)
    miner, loss = {
        "batch_hard": (peer_miners.BatchHardMiner(), triplet),
        "semi_hard": (peer_miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard"), triplet),
        "all_triplets": (None, triplet),
        "contrastive": (None, peer_losses.ContrastiveLoss()),
        "multi_similarity": (peer_miners.MultiSimilarityMiner(), peer_losses.MultiSimilarityLoss()),
    }[name]

    def run() -> None:
        emb_BD.grad = None
        pairs = None if miner is None else miner(emb_BD.detach(), label_B)
        loss(emb_BD, label_B, pairs).backward()

    return run


def product(n_rows: int) -> Run:
    """The product that every miner starts from, alone."""
    emb_BD = inputs(n_rows)[0]

    def run() -> None:
        emb_BD @ emb_BD.T

    return run


def medians(runs: list[Run], repeats: int) -> list[float]:
    """Median seconds of each, taking turns so that a busy machine is busy for all."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    for _ in range(repeats):
        for run, taken in zip(runs, times):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def extra_mb(side: str, name: str, n_rows: int) -> float:
    """Growth of a fresh process's peak memory above its inputs over one run, in MB."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(sender, side, name, n_rows))
    child.start()
    sender.close()
    try:
        return float(receiver.recv())
    finally:
        child.join()


def _measure(sender: multiprocessing.connection.Connection, side: str, name: str, n_rows: int) -> None:
    torch.set_num_threads(THREADS)
    make = ours if side == "ours" else theirs
    make("batch_hard", 64)()  # loads what is loaded once
    run = make(name, n_rows)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    run()
    sender.send((_status("VmHWM") - before) / 1e3)


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field))


def compared(name: str, n_rows: int, repeats: int) -> list[Case]:
    """Seconds and extra memory of ours and theirs."""
    seconds = medians([ours(name, n_rows), theirs(name, n_rows)], repeats)
    memory = [extra_mb(side, name, n_rows) for side in ("ours", "theirs")]
    return [
        Case(f"{name}/B={n_rows}/seconds", *seconds, seconds[1] / seconds[0], "s"),
        Case(f"{name}/B={n_rows}/extra_mb", *memory, memory[1] / max(memory[0], 0.1), "MB"),
    ]


def alone(name: str, n_rows: int, repeats: int) -> list[Case]:
    """Seconds and extra memory of ours, where the peer would need too much."""
    (seconds,) = medians([ours(name, n_rows)], repeats)
    return [
        Case(f"{name}/B={n_rows}/seconds", seconds, None, None, "s"),
        Case(f"{name}/B={n_rows}/extra_mb", extra_mb("ours", name, n_rows), None, None, "MB"),
    ]


def against_product(n_rows: int, repeats: int) -> Case:
    """Batch-hard, forward and backward, beside the bare forward product."""
    seconds = medians([ours("batch_hard", n_rows), product(n_rows)], repeats)
    return Case(f"batch_hard/B={n_rows}/seconds_over_product", *seconds, seconds[1] / seconds[0], "s")


def workers(n_ranks: int, n_rows: int, repeats: int) -> list[Case]:
    """A global batch over gloo ranks beside one process, and the share of a step spent communicating."""
    (single,) = medians([ours("batch_hard", n_rows)], repeats)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_worker, args=(n_ranks, n_rows, repeats, folder), nprocs=n_ranks)
        step, exchange = json.loads((Path(folder) / "seconds").read_text())
    return [
        Case(f"workers/W={n_ranks}/B={n_rows}/seconds", step, single, single / step, "s"),
        Case(f"workers/W={n_ranks}/B={n_rows}/communication_share", exchange / step, None, None, "1"),
    ]


def _worker(rank: int, n_ranks: int, n_rows: int, repeats: int, folder: str) -> None:
    torch.set_num_threads(max(1, THREADS // n_ranks))
    store = dist.FileStore(str(Path(folder) / "store"), n_ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=n_ranks, timeout=timedelta(seconds=120))
    world = World.current()
    own = slice(rank * n_rows // n_ranks, (rank + 1) * n_rows // n_ranks)
    emb_LD, label_L, face_id_L = (x[own].clone() for x in inputs(n_rows))
    emb_LD.requires_grad_()

    def step() -> None:
        dist.barrier()
        outcome = global_loss(OBJECTIVES["batch_hard"], world, emb_LD, label_L, face_id_L, seed=0, step=0)
        outcome.loss.backward()

    def exchange() -> None:
        dist.barrier()
        all_gather_rows(emb_LD, world).sum().backward()

    seconds = medians([step, exchange], repeats)
    if rank == 0:
        (Path(folder) / "seconds").write_text(json.dumps(seconds))
    dist.destroy_process_group()


def cases(quick: bool) -> list[Case]:
    """Every case; ``quick`` repeats less and leaves out the largest."""
    few, many = (1, 5) if quick else (3, 15)
    found = compared("batch_hard", 2048, few if quick else 5)
    found.append(against_product(4096, many))
    for name in ("semi_hard", "all_triplets", "contrastive", "multi_similarity"):
        found += compared(name, 1024, few)
    found += alone("softall", 1024, few)
    found += alone("batch_hard_memory", 512, few)
    if not quick:
        for name in ("batch_hard", "semi_hard", "all_triplets", "softall"):
            found += alone(name, 8192, few)
    for n_ranks in (2,) if quick else (2, 4):
        found += workers(n_ranks, 1024 if quick else 2048, few + 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="finish within 2 minutes")
    parser.add_argument("--json", action="store_true", help="print a list of {case, ours, peer, ratio, unit}")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    found = cases(options.quick)
    if options.json:
        print(json.dumps([asdict(case) for case in found]))
        return
    print(f"{'case':<48}{'ours':>12}{'peer':>12}{'ratio':>9}  unit")
    for case in found:
        peer = "-" if case.peer is None else f"{case.peer:.4g}"
        ratio = "-" if case.ratio is None else f"{case.ratio:.2f}"
        print(f"{case.case:<48}{case.ours:>12.4g}{peer:>12}{ratio:>9}  {case.unit}")


if __name__ == "__main__":
    main()
