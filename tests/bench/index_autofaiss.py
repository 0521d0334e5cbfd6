"""autofaiss beside our index, in an environment of its own: it needs older releases of FAISS and NumPy.

This file is two programs: imported, it prepares vectors and starts the other; run by that environment's Python, it
builds or searches with autofaiss's FAISS and imports nothing of ours.
"""

# N: rows, Q: probes, D: components.

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 1_024


def environment(folder: Path, requirements: Path) -> str:
    """The Python of an environment with autofaiss, which is made in ``folder`` where there is none. Raises Failed."""
    from index_process import run

    python = folder / "bin" / "python"
    if not (folder / "bin" / "autofaiss").exists():
        run(["python3.11", "-m", "venv", str(folder)])
        run([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)])
    return str(python)


def prepare(corpus: str, probes: str, out: str) -> None:
    """Write the vectors, the codes of their people and the probes as .npy files."""
    from index_ours import loaded

    rows, given = loaded(corpus), np.load(probes)
    Path(out, "vectors").mkdir(parents=True, exist_ok=True)
    np.save(f"{out}/vectors/0.npy", rows.embedding_ND)
    np.save(f"{out}/people.npy", rows.code_N)
    code = {name: number for number, name in enumerate(rows.identity.dictionary.to_pylist())}
    position = {face: at for at, face in enumerate(rows.face_id_N.tolist())}
    np.savez(
        f"{out}/probes.npz",
        query=given["query"],
        code=np.array([code[name] for name in given["name"]]),
        first=given["first"],
        nearest=np.array([position[face] for face in given["face"].tolist()]),
    )


def answer(out: str) -> dict[str, Any]:
    """What ``search`` printed."""
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def build(folder: str, memory: str) -> None:
    """An index in ``folder`` that takes so much memory, such as 64MB, if autofaiss can."""
    from autofaiss import build_index

    build_index(
        embeddings=f"{folder}/vectors",
        index_path=f"{folder}/index.faiss",
        index_infos_path=f"{folder}/infos.json",
        max_index_memory_usage=memory,
        current_memory_available="12GB",
        metric_type="ip",
        nb_cores=1,
        verbose=30,
    )


def search(folder: str) -> None:
    """The growth of peak resident memory that 10,000 probes take, CPU seconds per probe and what is found."""
    import faiss

    given = np.load(f"{folder}/probes.npz")
    query_QD, people_N = given["query"], np.load(f"{folder}/people.npy", mmap_mode="r")
    small = faiss.IndexFlatIP(query_QD.shape[1])
    small.add(query_QD[:1_000])
    small.search(query_QD[:1], 5)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    query_QD = np.load(f"{folder}/probes.npz")["query"]
    index = faiss.read_index(f"{folder}/index.faiss")
    found: list[Any] = [index.search(query_QD[start : start + BATCH], 5)[1] for start in range(0, len(query_QD), BATCH)]
    memory = _status("VmHWM") - before
    start = time.process_time()
    for first in range(0, len(query_QD), BATCH):
        index.search(query_QD[first : first + BATCH], 5)
    cpu = (time.process_time() - start) / len(query_QD)
    at_Q = np.concatenate(found)[:, 0]
    right_Q = (at_Q >= 0) & (people_N[np.maximum(at_Q, 0)] == given["code"])
    key = json.loads(Path(f"{folder}/infos.json").read_text()).get("index_key", "")
    recall = float((at_Q == given["nearest"]).mean())
    figures = {
        "memory": memory,
        "cpu": cpu,
        "identity": float(right_Q[given["first"]].mean()),
        "recall": recall,
        "key": key,
    }
    print(json.dumps(figures))


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    if sys.argv[1] == "build":
        build(sys.argv[2], sys.argv[3])
    else:
        search(sys.argv[2])
