"""The identity index beside plain FAISS, autofaiss, exact products, and what it promises, in one table.

    python tests/bench/index.py [--case PATTERN] [--work FOLDER] [--law lfw] [--rounds 3] [--large] [--real] [--quick]

Figures are CPU seconds, user and system; each is measured in processes of its own, on one thread except for whole jobs
and for memory. Vectors are synthetic (``vectors``) unless the case says real, and probes are new pictures that no build
has seen. "identity": share of the probes whose person comes first, of those whose person an exact search puts first.
"memory": growth of peak resident memory of a process that searches 10,000 probes over the same process after its
imports and one search of a 1,000-row index. Where the peer is a target or a budget, a ratio of 1 or more meets it.

--case runs some: reads/*, add, gate, build/faiss, build/autofaiss, search/*, budget/1_8, target/.9, growth/1e6, real/*,
kernels/*.
--work keeps corpora and indexes; everything takes two hours on two cores, 12 GB of memory and 10 GB of disk.
"""

from __future__ import annotations

import fnmatch
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import index_add
import index_autofaiss as autofaiss
import index_gate
import index_kernels as kernels
import index_ours as ours
import index_peers as peers
import index_reads as reads
import real_vectors
import table
from index_process import ROOT, Failed, child, likeness, measured, run
from index_work import Built, Vectors, Work
from population import LAWS
from table import Case, less, more, skipped

from metric_core.artefacts.collection import Collection

Cases = Iterator[Case]
PARTS_OF_RAW = {2: 0.99, 4: 0.99, 8: 0.98, 16: 0.95}
"""Budgets as parts of the raw float32 bytes, and the identity recall that each must allow."""
TARGETS = (0.9, 0.95, 0.99)
SPARED = 1.1
"""Multiple of the corpus that a build may read beside its sample."""
LISTS, KERNEL_ROWS = 4_096, 262_144
AUTOFAISS_LIMIT = 20
"""Times our build's seconds after which autofaiss is ended."""
PROCESS_BYTES = 24 << 20
"""Memory of a search that does not grow with the index, rounded up."""
QUICK = ("build/faiss/1_2", "search/exact", "search/open", "kernels/*")


def read_bytes(work: Work, shards: int) -> Cases:
    """Bytes read of the part files, as a multiple of the corpus."""
    name = f"reads/shards={shards}"
    if not reads.there():
        yield skipped(name, "no strace")
        return
    of = work.main
    found = reads.of_index(of.path, "--shards", str(shards))
    size = sum(Path(part).stat().st_size for part in found)
    allowed = SPARED + child(ours.sampled, corpus=of.path, identity=0.99) / of.rows
    yield less(name, sum(found.values()) / size, allowed, f"x the corpus; allowed: {SPARED} + rows sampled / rows")


def build_faiss(work: Work, part: int) -> Cases:
    """The whole job without Ray's start, beside plain FAISS making the same spec of as many training rows."""
    of, (ray_cpu, ray_wall), name = work.main, work.ray, f"build/faiss/1_{part}"
    jobs, plain = [], []
    for number in range(work.rounds):
        jobs.append(work.budget(of, part, number))
        about = child(ours.about, index=jobs[-1].path)
        plain.append(
            measured(
                peers.build,
                corpus=of.path,
                spec=about["spec"],
                train_rows=about["train_rows"],
                out=str(work.folder / "plain.faiss"),
            )
        )
    cpu, wall = (statistics.median(getattr(job, figure) for job in jobs) for figure in ("cpu", "wall"))
    peer_cpu, peer_wall = (statistics.median(getattr(used, figure) for _, used in plain) for figure in ("cpu", "wall"))
    stages = ", ".join(f"{stage} {spent:.1f}" for stage, spent in plain[-1][0].items())
    yield less(
        f"{name}/cpu", cpu - ray_cpu, peer_cpu, f"CPU s, without Ray's {ray_cpu:.1f}; {about['spec']}; peer: {stages}"
    )
    yield less(f"{name}/wall", wall - ray_wall, peer_wall, f"s, without Ray's {ray_wall:.1f}; the peer on one thread")


def build_autofaiss(work: Work) -> Cases:
    """autofaiss at the memory that our index of an eighth was measured to take."""
    of, name = work.main, "build/autofaiss"
    job, probes = work.budget(of, work.tight), work.probes(of)
    found = _searched(work, job, of)
    memory = child(ours.memory, threads=None, index=job.path, small=work.small, probes=probes)
    python = autofaiss.environment(work.folder / "autofaiss", ROOT / "infra" / "constraints-autofaiss.txt")
    folder = work.folder / "autofaiss-vectors"
    child(autofaiss.prepare, threads=None, corpus=of.path, probes=probes, out=str(folder))
    command = [python, autofaiss.__file__]
    ray_cpu, _ = work.ray
    try:
        limit = AUTOFAISS_LIMIT * job.wall
        built = run([*command, "build", str(folder), f"{memory // 10**6}MB"], threads=1, timeout=limit)
    except Failed as failed:
        yield Case(f"{name}/cpu", job.cpu - ray_cpu, None, None, f"CPU s; autofaiss {failed}")
        return
    theirs = autofaiss.answer(run([*command, "search", str(folder)], threads=1).out)
    yield less(f"{name}/cpu", job.cpu - ray_cpu, built.cpu, f"CPU s; theirs: {theirs['key']}")
    yield less(f"{name}/memory", memory / 1e6, theirs["memory"] / 1e6, "MB, measured")
    yield more(f"{name}/identity", found["identity"], theirs["identity"], "of 1")
    yield more(f"{name}/recall", found["recall"], theirs["recall"], "of 1, the nearest vector first")
    yield less(f"{name}/probe", found["identify"] * 1e6, theirs["cpu"] * 1e6, "µs per probe, five results")


def search_exact(work: Work) -> Cases:
    """The index of a half beside an exact matrix product with all rows and argmax, for 1,024 probes at a time."""
    of = work.main
    job = work.budget(of, 2)
    found = child(ours.search, index=job.path, probes=work.probes(of), rounds=3, corpus=of.path)
    unit = f"µs per probe; identity {found['identity']:.4f}, nearest vector {found['recall']:.4f}"
    yield less("search/exact/identify", found["identify"] * 1e6, found["exact"] * 1e6, f"{unit}; five people")
    yield less("search/exact/search", found["search"] * 1e6, found["exact"] * 1e6, f"{unit}; one vector")


def search_faiss(work: Work, shards: int, tight: bool = False) -> Cases:
    """An index beside the one file exported of it, at the same parameters; plain FAISS holds all of it in memory. With
    ``tight``, ours has an eighth of the raw bytes and reads vectors for reranking from its file."""
    of = work.main
    budget = ("--memory-budget", str(of.raw // work.tight), "--target-identity-recall", "0.98") if tight else ()
    job = work.index(of, *budget, "--shards", str(shards))
    merged = str(work.folder / "merged.faiss")
    likeness("index", "export", "--index", job.path, "--out", merged)
    found = child(peers.search, index=job.path, merged=merged, probes=work.probes(of), rounds=3)
    about = child(ours.about, index=job.path)
    unit = f"probes per CPU s; {about['spec']}, the same face for {found['same']:.4f}"
    name = "search/faiss/tight" if tight else f"search/faiss/shards={shards}"
    yield more(name, 1 / found["ours"], 1 / found["plain"], unit)


def one_probe(work: Work) -> Cases:
    """A search on the command line, the whole process."""
    of = work.minted(120_000 if work.quick else 200_000, 512)
    job = work.index(of)
    probe = work.minted(1, 512)
    command = ("search", "--embeddings", probe.path, "--index", job.path)
    likeness(*command)  # hashes the files
    yield less("search/one-probe", statistics.median(likeness(*command).cpu for _ in range(5)), 1.5, "CPU s in all")


def opening(work: Work) -> Cases:
    """Opening an index that this machine has hashed."""
    path = work.budget(work.main, 2).path
    child(ours.opening, index=path)
    yield less("search/open", statistics.median(child(ours.opening, index=path) for _ in range(5)), 0.3, "CPU s")


def budget(work: Work, part: int) -> Cases:
    """Memory against the budget and against what was predicted; identity recall against what the budget must allow."""
    of, name = work.main, f"budget/1_{part}"
    job, small = work.budget(of, part), work.small
    about = child(ours.about, index=job.path)
    memory = child(ours.memory, threads=None, index=job.path, small=small, probes=work.probes(of))
    found = _searched(work, job, of)
    yield less(f"{name}/memory", memory / 1e6, of.raw / part / 1e6, f"MB measured; {about['spec']}")
    yield less(f"{name}/predicted", about["predicted"] / 1e6, memory / 1e6, "MB; peer: measured")
    yield more(f"{name}/identity", found["identity"], PARTS_OF_RAW[part], "of 1")
    yield less(f"{name}/probe", found["identify"] * 1e6, None, f"µs per probe; nearest vector {found['recall']:.4f}")


def target(work: Work, share: float) -> Cases:
    """Identity recall of new probes against the target less .01, and CPU per probe beside the highest target's."""
    of, name = work.main, f"target/{_short(share)}"
    mine, highest = (_searched(work, work.index(of, *_target(one)), of) for one in (share, TARGETS[-1]))
    yield more(f"{name}/identity", mine["identity"], share - 0.01, "of 1")
    yield less(f"{name}/probe", mine["identify"] * 1e6, highest["identify"] * 1e6, f"µs per probe; peer: {TARGETS[-1]}")


def growth(work: Work, rows: int) -> Cases:
    """What a build and a search take as a corpus grows, with an eighth of the raw bytes beside what a process needs."""
    of, name, (ray_cpu, _) = work.minted(rows, 128), f"growth/{rows:.0e}".replace("e+0", "e"), work.ray
    job = work.index(of, "--memory-budget", str(PROCESS_BYTES + of.raw // 8))
    about = child(ours.about, index=job.path)
    found = _searched(work, job, of)
    promised = child(ours.declared, corpus=of.path, spec=about["spec"], shards=about["shards"])
    yield less(f"{name}/build_cpu", job.cpu - ray_cpu, None, f"CPU s; {about['spec']}, {about['shards']} shards")
    yield less(f"{name}/task_memory", job.task / 1e6, promised / 1e6, "MB, peak of a task; peer: declared")
    yield less(f"{name}/bytes", about["bytes"] / 1e6, of.raw / 1e6, "MB on disk; peer: raw vectors")
    yield less(f"{name}/probe", found["identify"] * 1e6, None, "µs per probe")
    yield more(f"{name}/identity", found["identity"], 0.99, "of 1")


def real(work: Work, name: str) -> Cases:
    """Vectors of pictures; probes are pictures of the corpus, which do not find themselves."""
    folder = str(work.folder / f"real-{name}")
    path = real_vectors.lfw(folder) if name == "lfw_dev" else real_vectors.people_drawn(folder)
    source = Collection.open(path)
    of = Vectors(path, source.rows, source.dim, None)
    job = work.index(of, "--memory-budget", str(PROCESS_BYTES + of.raw // 8))
    about, found = child(ours.about, index=job.path), _searched(work, job, of, exact=True)
    yield more(f"real/{name}/identity", found["identity"], 0.99, f"of 1; {of.rows} x {of.dim}, {about['spec']}")
    yield more(f"real/{name}/recall", found["recall"], None, "of 1, the nearest vector first")
    yield less(f"real/{name}/probe", found["identify"] * 1e6, found["exact"] * 1e6, "µs per probe; peer: exact product")


def kernel(work: Work, name: str) -> Cases:
    """Our arithmetic beside FAISS's own."""
    of, lists, rows = work.main, LISTS // 8 if work.quick else LISTS, KERNEL_ROWS // 4 if work.quick else KERNEL_ROWS
    rounds = 1 if work.quick else 3
    if name in ("kmeans", "assign"):
        found = child(getattr(kernels, name), corpus=of.path, lists=lists, rows=rows, rounds=rounds)
        unit = f"CPU s; {rows} x {of.dim}, {lists} lists"
    else:
        found = child(getattr(kernels, name), corpus=of.path, rows=rows, rounds=rounds)
        unit = f"CPU s; {kernels.QUERIES} queries, {rows} x {of.dim}"
    yield less(f"kernels/{name}/cpu", found["ours"], found["theirs"], unit)
    if name == "kmeans":
        yield less(
            "kernels/kmeans/error", found["ours_error"], found["theirs_error"], "1 - mean product, held-out rows"
        )


def _searched(work: Work, job: Built, of: Vectors, *, exact: bool = False) -> dict[str, float]:
    found: dict[str, float] = child(
        ours.search, index=job.path, probes=work.probes(of), rounds=3, corpus=of.path if exact else None
    )
    return found


def _target(share: float) -> tuple[str, str]:
    return "--target-identity-recall", str(share)


def _short(share: float) -> str:
    return f"{share:g}".removeprefix("0")


def cases(*, large: bool, with_real: bool) -> dict[str, Callable[[Work], Cases]]:
    """All cases by name."""
    found: dict[str, Callable[[Work], Cases]] = {}
    for shards in (1, 8, 64):
        found[f"reads/shards={shards}"] = partial(read_bytes, shards=shards)
    for part in (2, 8):
        found[f"build/faiss/1_{part}"] = partial(build_faiss, part=part)
    found |= {"build/autofaiss": build_autofaiss, "search/exact": search_exact}
    for shards in (1, 8):
        found[f"search/faiss/shards={shards}"] = partial(search_faiss, shards=shards)
    found["search/faiss/tight"] = partial(search_faiss, shards=1, tight=True)
    found |= {"search/one-probe": one_probe, "search/open": opening}
    for part in PARTS_OF_RAW:
        found[f"budget/1_{part}"] = partial(budget, part=part)
    for share in TARGETS:
        found[f"target/{_short(share)}"] = partial(target, share=share)
    for rows in (10**5, 3 * 10**5, 10**6, *([3 * 10**6] if large else [])):
        found[f"growth/{rows:.0e}".replace("e+0", "e")] = partial(growth, rows=rows)
    found |= {"add": index_add.cases, "gate": index_gate.cases}
    for name in ("kmeans", "assign", "truth", "flat"):
        found[f"kernels/{name}"] = partial(kernel, name=name)
    for name in ("lfw_dev", "drawn") if with_real else ():
        found[f"real/{name}"] = partial(real, name=name)
    return found


def chosen(names: list[str], patterns: list[str]) -> list[str]:
    """The names that a pattern matches, or whose beginning is one."""
    found = [n for n in names if any(fnmatch.fnmatch(n, p) or n.startswith(f"{p}/") for p in patterns)]
    if not found:
        raise SystemExit(f"no case is like {', '.join(patterns)}; there are {', '.join(names)}")
    return found


def main() -> None:
    parser = table.parser(__doc__, f"120,000 rows, and only {', '.join(QUICK)}")
    parser.add_argument("--case", action="append", metavar="PATTERN", help="only these; may be repeated")
    parser.add_argument("--work", type=Path, help="folder that keeps corpora and indexes; default: a temporary one")
    parser.add_argument("--law", choices=sorted(LAWS), default="drawn", help="of the synthetic vectors; lfw is harder")
    parser.add_argument("--rounds", type=int, default=1, help="builds of build/faiss, of which medians are shown")
    parser.add_argument("--large", action="store_true", help="growth to 3 million rows as well")
    parser.add_argument("--real", action="store_true", help="real vectors as well; drawing them takes 15 minutes")
    options = parser.parse_args()
    every = cases(large=options.large, with_real=options.real)
    names = chosen(list(every), options.case or (list(QUICK) if options.quick else ["*"]))
    found: list[Case] = []
    with tempfile.TemporaryDirectory(prefix="likeness-bench-") as scratch:
        work = Work((options.work or Path(scratch)).absolute(), options.law, options.quick, options.rounds)
        (work.folder / "indexes").mkdir(parents=True, exist_ok=True)
        for name in names:
            start = time.monotonic()
            try:
                found += every[name](work)
            except Failed as failed:
                found.append(replace(skipped(name, ""), unit=f"failed: {failed}"))
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    table.show(found, as_json=options.json)


if __name__ == "__main__":
    main()
