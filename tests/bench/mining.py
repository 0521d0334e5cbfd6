"""Times and memory of the losses and miners beside pytorch-metric-learning, in one table.

    python tests/bench/mining.py [--device cuda] [--quick] [--json]

Batches have 512 columns and 4 faces per identity; PyTorch uses 2 threads. Times are medians of runs that
alternate with the peer's; extra memory is the growth of a fresh process's peak above its inputs (Linux).
The gloo cases share one global batch of 2,048 between processes, beside one process that holds it all. Their
step is the loss alone, without a network, so the share of it spent in collectives, waiting included, is the
upper limit for training. On a GPU there are batches of up to 32,768, beside the bare product in the
batch's type; the loss itself is computed in float32 whatever that is.
"""

from __future__ import annotations

import json
import multiprocessing.connection
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import table
import torch
import torch.distributed as dist
from pytorch_metric_learning import losses as peer_losses
from pytorch_metric_learning import miners as peer_miners
from table import Case, less
from torch import Tensor

from metric_core.learn.collective import World
from metric_core.learn.objective import Objective
from metric_core.learn.step import global_loss, new_memory
from metric_core.sampling.sharding import share

DIM, FACES, THREADS, GLOO_ROWS = 512, 4, 2, 2048
ONE = World(0, 1)
Run = Callable[[], None]
# Fresh processes are forked off a server that has imported the libraries, which takes seconds, and done nothing else.
START = "forkserver"
PRELOAD = ["torch", "pytorch_metric_learning.losses", "pytorch_metric_learning.miners", "metric_core.learn.step"]


OBJECTIVES = {
    "batch_hard": Objective(miner="batch-hard"),
    "semi_hard": Objective(miner="semi-hard"),
    "all_triplets": Objective(miner="all", reduction="active"),
    "contrastive": Objective(loss="contrastive", margin=1.0),
    "multi_similarity": Objective(loss="multi-similarity", distance="cosine"),
    "softall": Objective(loss="softall", distance="cosine"),
    "batch_hard_memory": Objective(miner="batch-hard", memory_rows=65536, hardest_from_memory=True),
}


def inputs(n_rows: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Random unit vectors, labels and face_ids, the same in every process."""
    draw = torch.Generator().manual_seed(0)
    emb_BD = torch.nn.functional.normalize(torch.randn(n_rows, DIM, generator=draw)).to(dtype)
    label_B, face_id_B = torch.arange(n_rows) // FACES, torch.randperm(n_rows, generator=draw)
    return emb_BD.to(device), label_B.to(device), face_id_B.to(device)


def ours(name: str, n_rows: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Run:
    """A function that runs one forward and backward pass of ours."""
    emb_BD, label_B, face_id_B = inputs(n_rows, device, dtype)
    emb_BD.requires_grad_()
    memory = new_memory(OBJECTIVES[name], DIM, ONE, torch.float32, device)
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


def product(n_rows: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Run:
    """The matrix product alone that every miner starts from."""
    emb_BD = inputs(n_rows, device, dtype)[0]

    def run() -> None:
        emb_BD @ emb_BD.T

    return run


def medians(runs: list[Run], repeats: int) -> list[float]:
    """Median seconds of each; runs alternate, so that a busy machine affects all of them."""
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
    """Growth of a fresh process's peak memory above its inputs during one run, in MB; at least 0.1."""
    context = multiprocessing.get_context(START)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(sender, side, name, n_rows))
    child.start()
    sender.close()
    try:
        return max(0.1, float(receiver.recv()))
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
        less(f"{name}/B={n_rows}/seconds", *seconds, "s"),
        less(f"{name}/B={n_rows}/extra_mb", *memory, "MB"),
    ]


def alone(name: str, n_rows: int, repeats: int) -> list[Case]:
    """Seconds and extra memory of ours, where the peer would need too much."""
    (seconds,) = medians([ours(name, n_rows)], repeats)
    return [
        less(f"{name}/B={n_rows}/seconds", seconds, None, "s"),
        less(f"{name}/B={n_rows}/extra_mb", extra_mb("ours", name, n_rows), None, "MB"),
    ]


def against_product(n_rows: int, repeats: int) -> Case:
    """Batch-hard, forward and backward, beside the bare forward product."""
    seconds = medians([ours("batch_hard", n_rows), product(n_rows)], repeats)
    return less(f"batch_hard/B={n_rows}/seconds_over_product", *seconds, "s")


def on_gpu(n_rows: int, dtype: torch.dtype, repeats: int) -> list[Case]:
    """Seconds of ours beside the bare product in the batch's type, and the growth of the card's peak memory."""

    def waited(run: Run) -> Run:
        def to_the_end() -> None:
            run()
            torch.cuda.synchronize()

        return to_the_end

    found, kind = [], str(dtype).removeprefix("torch.")
    for name in ("batch_hard", "semi_hard", "softall", "all_triplets"):
        run = waited(ours(name, n_rows, "cuda", dtype))
        seconds = medians([run, waited(product(n_rows, "cuda", dtype))], repeats)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        extra = (torch.cuda.max_memory_allocated() - before) / 1e6
        found.append(less(f"gpu/{name}/{kind}/B={n_rows}/seconds_over_product", *seconds, "s"))
        found.append(less(f"gpu/{name}/{kind}/B={n_rows}/extra_mb", extra, None, "MB"))
    return found


def gloo(n_ranks: int, repeats: int) -> list[Case]:
    """A global batch over gloo ranks beside one process, and the share of a step spent communicating."""
    with tempfile.TemporaryDirectory() as folder:
        args = (n_ranks, repeats, folder)
        torch.multiprocessing.start_processes(_rank, args=args, nprocs=n_ranks, start_method=START)
        step, single, share = json.loads((Path(folder) / "figures").read_text())
    return [
        less(f"gloo/W={n_ranks}/seconds", step, single, "s"),
        less(f"gloo/W={n_ranks}/communication_share", share, None, "1"),
    ]


def _rank(rank: int, n_ranks: int, repeats: int, folder: str) -> None:
    store = dist.FileStore(str(Path(folder) / "store"), n_ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=n_ranks, timeout=timedelta(seconds=120))
    world = World.current()
    own = share(GLOO_ROWS, rank, n_ranks)
    emb_LD, label_L, face_id_L = (x[own].clone() for x in inputs(GLOO_ROWS))
    emb_LD.requires_grad_()
    one_process = ours("batch_hard", GLOO_ROWS)
    spent, shares = _clock_collectives(), []

    def step() -> None:
        torch.set_num_threads(max(1, THREADS // n_ranks))
        dist.barrier()
        spent[0], start = 0.0, time.perf_counter()
        outcome = global_loss(OBJECTIVES["batch_hard"], world, emb_LD, label_L, face_id_L, seed=0, step=0)
        outcome.loss.backward()
        shares.append(spent[0] / (time.perf_counter() - start))

    def single() -> None:
        torch.set_num_threads(THREADS)
        if rank == 0:  # the others wait at the next step's barrier
            one_process()

    seconds = medians([step, single], repeats)
    if rank == 0:
        (Path(folder) / "figures").write_text(json.dumps([*seconds, statistics.median(shares)]))
    dist.barrier()
    dist.destroy_process_group()


def _clock_collectives() -> list[float]:
    """A list of one figure, to which this process's collectives add their seconds from now on."""
    spent = [0.0]

    def clocked(collective: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            result = collective(*args)
            spent[0] += time.perf_counter() - start
            return result

        return call

    for name in ("all_gather", "reduce_scatter", "all_reduce"):
        setattr(dist, name, clocked(getattr(dist, name)))
    return spent


def cases(quick: bool) -> list[Case]:
    """Every case; ``quick`` repeats less and leaves out the largest."""
    few, many = (1, 3) if quick else (3, 15)
    found = compared("batch_hard", 2048, few if quick else 5)
    found.append(against_product(4096, many))
    for name in ("semi_hard", "all_triplets", "contrastive", "multi_similarity"):
        found += compared(name, 1024, few)
    found += alone("softall", 1024, few)
    found += alone("batch_hard_memory", 512, few)
    if not quick:
        for name in ("batch_hard", "semi_hard", "all_triplets", "softall"):
            found += alone(name, 8192, few)
    for n_ranks in (2, 4):
        found += gloo(n_ranks, few + 2)
    return found


def gpu_cases(quick: bool) -> list[Case]:
    """Every case on a GPU."""
    sizes = (2048,) if quick else (2048, 8192, 32768)
    return [case for n in sizes for dtype in (torch.float32, torch.bfloat16) for case in on_gpu(n, dtype, 5)]


def main() -> None:
    parser = table.parser(__doc__, "fewer repetitions, not the largest batches")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    if options.device == "cuda":
        table.show(gpu_cases(options.quick), as_json=options.json)
        return
    torch.set_num_threads(THREADS)
    multiprocessing.set_forkserver_preload(PRELOAD)
    table.show(cases(options.quick), as_json=options.json)


if __name__ == "__main__":
    main()
