"""Suggestions for an option that does not exist: first for words from other tools, then names of similar spelling."""

import difflib

MIN_SIMILARITY = 0.75
"""Lowest similarity of a name's spelling, from 0 to 1 as ``difflib`` measures it, for the name to be suggested."""

INPUT = ("source", "image or embeddings", "old and new", "faces", "embeddings")

MEANT: dict[str, tuple[str, ...]] = {
    "lr": ("learning-rate",),
    "wd": ("weight-decay",),
    "decay": ("weight-decay",),
    "warmup-steps": ("warmup",),
    "epochs": ("steps",),
    "num-epochs": ("steps",),
    "iterations": ("steps",),
    "max-steps": ("steps",),
    "batch-size": ("batch", "identities and images"),
    "batch": ("identities and images",),
    "p": ("identities",),
    "k": ("top", "neighbours", "images"),
    "topk": ("top", "neighbours"),
    "top-k": ("top", "neighbours"),
    "num": ("top",),
    "n": ("top",),
    "limit": ("top",),
    "device": ("gpu",),
    "cuda": ("gpu",),
    "gpus": ("gpu", "workers"),
    "num-gpus": ("workers",),
    "num-workers": ("workers", "actors"),
    "workers": ("actors",),
    "world-size": ("workers", "actors"),
    "nproc": ("workers", "actors"),
    "nproc-per-node": ("workers", "actors"),
    "nodes": ("workers",),
    "jobs": ("workers", "actors"),
    "threads": ("cpus-per-worker",),
    "amp": ("precision",),
    "fp16": ("precision",),
    "bf16": ("precision",),
    "model": ("backbone",),
    "arch": ("backbone",),
    "network": ("backbone",),
    "weights": ("model",),
    "checkpoint": ("model",),
    "dim": ("embedding-size",),
    "embedding-dim": ("embedding-size",),
    "img-size": ("image-size",),
    "input-size": ("image-size",),
    "output": ("out",),
    "output-dir": ("out",),
    "out-dir": ("out",),
    "save": ("out",),
    "save-dir": ("out",),
    "o": ("out",),
    "input": INPUT,
    "data": INPUT,
    "data-dir": INPUT,
    "dataset": INPUT,
    "images": ("image",),
    "query": ("image or embeddings",),
    "random-seed": ("seed",),
    "random-state": ("seed",),
    "mlflow-uri": ("tracking-uri",),
    "ray-address": ("address",),
    "fmr": ("far",),
    "threshold": ("far",),
    "quiet": ("no-verbose",),
}
"""For each word the options that it may mean; the first one that the job has is suggested."""

NOTES = {"identities and images": " (a batch is P people with K pictures each)"}
"""Explanations of suggestions whose names alone are not clear."""

GONE = {"objective.ring": "batches are always gathered"}
"""Options of earlier versions, which an older --config file may still name, and why none is needed."""

CONTINUE = {"resume", "continue", "restart", "resume-from-checkpoint"}
"""Words for continuing a run, which needs no option if the job has an output to continue."""


def hint(unknown: str, known: set[str]) -> str:
    """Text to append to "there is no option --unknown": which of the ``known`` ones may be meant. It may be empty.

    Args:
        unknown: as it was typed, with its dashes.
        known: all options of the job, with their dashes.
    """
    names = {name.lstrip("-") for name in known}
    word = unknown.lstrip("-").replace("_", "-").lower()
    if (gone := word.removeprefix("no-")) in GONE:
        return f"; {gone} is gone: {GONE[gone]}; delete the line"
    if word in CONTINUE and {"out", "address"} <= names:
        return "; none is needed: the same command continues an interrupted run"
    near = _near(word, names)
    if not near:
        return ""
    shown = " ".join(part if part in ("and", "or") else f"--{part}" for part in near.split(" "))
    return f"; did you mean {shown}{NOTES.get(near, '')}?"


def _near(word: str, names: set[str]) -> str:
    """The option that may be meant, or several with ``and`` or ``or`` between them; empty if no option is similar."""
    leaf = word.rpartition(".")[2]
    if word in names:  # it differed only in capitals and underscores
        return word
    for candidate in (*MEANT.get(word, ()), *MEANT.get(leaf, ())):
        if set(candidate.split(" ")) - {"and", "or"} <= names:
            return candidate
    switched_off = word.startswith("no-")
    plain = sorted(name for name in names if name.startswith("no-") == switched_off)
    same_leaf = [name for name in plain if name.rpartition(".")[2] == leaf]
    longer = [name for name in plain if len(word) > 2 and name.startswith(word)]
    for found in (same_leaf, longer):
        if 0 < len(found) < 4:
            return " or ".join(found)
    alike = difflib.get_close_matches(word, plain, n=1, cutoff=MIN_SIMILARITY)
    if alike:
        return alike[0]
    leaves = {name.rpartition(".")[2]: name for name in plain}
    alike = difflib.get_close_matches(leaf, leaves, n=1, cutoff=MIN_SIMILARITY)
    return leaves[alike[0]] if alike else ""
