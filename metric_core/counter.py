"""Counter-based randomness: a draw depends on (seed, step, id, purpose) and on nothing else.

So a face gets the same augmentation on every rank, in every loader worker and after a restart. Callers choose
what to draw, and when.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key(seed: int, *words: int | str) -> int:
    """A 64-bit key from a seed and any further words, the same in every process and Python version."""
    text = "\0".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def hash63(*words: int | str) -> int:
    """BLAKE2b-64 of the words joined by NUL, shifted right by one so that it fits a signed int64: an id for a name,
    the same in every process and on every machine."""
    return hash63_joined("\0".join(str(word) for word in words))


def hash63_joined(text: str) -> int:
    """``hash63`` of words that are joined by NUL already, in half the time."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def hash63_table(beginnings: Sequence[str], endings: Sequence[str]) -> np.ndarray:
    """int64 (B, E): ``hash63_joined`` of every beginning with every ending, in less than half the time."""
    words = [ending.encode() for ending in endings]
    digests = []
    for beginning in beginnings:
        begun = hashlib.blake2b(beginning.encode(), digest_size=8)
        for word in words:
            hash = begun.copy()
            hash.update(word)
            digests.append(hash.digest())
    hash_N = np.frombuffer(b"".join(digests), ">u8") >> np.uint64(1)
    return hash_N.astype(np.int64).reshape(len(beginnings), len(endings))


def generator(seed: int, *words: int | str) -> np.random.Generator:
    """A separate NumPy generator for (seed, words), for draws that are not one per id."""
    return np.random.Generator(np.random.Philox(key=key(seed, *words)))


def uniform(seed: int, step: int, ids: np.ndarray, purpose: str, n: int) -> np.ndarray:
    """Uniform draws in [0, 1), one row per id; a row does not depend on the order of the ids or on the other ids.

    Args:
        seed: the run's seed.
        step: the training step.
        ids: int64 (N,), usually face_ids.
        purpose: what the draw is for; two purposes never share a stream.
        n: draws per id.

    Returns:
        float64 (N, n).

    The bits are SplitMix64's output function (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
    generators", fig. 14), applied to the id, then to (hashed id + draw number), both with a hashed key.
    """
    base = np.uint64(key(seed, step, purpose))
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is intended
        hashed_N = _mix(np.asarray(ids).astype(np.uint64) ^ base)
        counters_n = np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN
        bits_Nn = _mix(_mix(hashed_N[:, None] + counters_n[None, :]) ^ base)
    return (bits_Nn >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed
