"""Sorted arrays of face_ids as sets: eight bytes per face, so that a hundred million fit in memory.

Shape letters: M ids of a set, N ids that are looked up.
"""

import hashlib

import numpy as np

NONE = np.empty(0, np.int64)


def within(id_N: np.ndarray, sorted_M: np.ndarray) -> np.ndarray:
    """bool (N,): which ids are in a sorted set. ``np.isin`` would sort the set again in every call."""
    if not len(sorted_M):
        return np.zeros(len(id_N), bool)
    at_N = np.minimum(np.searchsorted(sorted_M, id_N), len(sorted_M) - 1)
    within_N: np.ndarray = sorted_M[at_N] == id_N
    return within_N


def digest(sorted_M: np.ndarray) -> str:
    """sha256 hex of a sorted set: equal for equal sets."""
    return hashlib.sha256(sorted_M.astype("<i8").tobytes()).hexdigest()
