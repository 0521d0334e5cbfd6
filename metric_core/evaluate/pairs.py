"""Pairs of pictures and their scores; lists of pairs, in the format of LFW's ``pairs.txt``.

    10 <tab> 300                        10 folds of 300 genuine and 300 impostor pairs (one number: a single fold)
    Abel_Pacheco <tab> 1 <tab> 4        genuine: pictures 1 and 4 of one person
    Zico <tab> 2 <tab> Ruth <tab> 1     impostor: picture 2 of one person, picture 1 of another

Picture 4 of Abel_Pacheco has the key ``Abel_Pacheco/Abel_Pacheco_0004``, its path in LFW without the extension.
InsightFace's .bin sets, whose pictures have their numbers as keys, come with the pairs inside.
"""

from dataclasses import dataclass

import numpy as np

from metric_core import storage
from metric_core.errors import DataError
from metric_core.sources import pickled


@dataclass(frozen=True)
class Pairs:
    """Pictures to compare, by their keys."""

    a_key_N: np.ndarray
    """object (N,), str"""
    b_key_N: np.ndarray
    """object (N,), str"""
    same_N: np.ndarray
    """bool (N,): one person's"""
    fold_N: np.ndarray
    """int64 (N,), from 0"""

    def __len__(self) -> int:
        return len(self.same_N)


@dataclass(frozen=True)
class PairScores:
    """Pairs that could be scored, and how many could not."""

    score_N: np.ndarray
    """float64, cosine similarity"""
    same_N: np.ndarray
    """bool"""
    fold_N: np.ndarray
    """int64"""
    skipped: int = 0
    """pairs of which a picture is not among the embeddings"""


def load(address: str) -> Pairs:
    """The pairs of a list in LFW's format, or of an InsightFace .bin in 10 folds as InsightFace cuts it: one behind
    the other, of equal length (``verification.py``, KFold without shuffling).

    Raises:
        DataError: as ``read_pairs``, or as ``pickled.read``.
        Missing: there is no such file.
    """
    if not address.endswith(".bin"):
        return read_pairs(storage.read_text(address), address)
    same_N = np.array(pickled.read(address).same)
    numbers = np.arange(2 * len(same_N)).astype(str).astype(object)
    folds = np.array_split(np.arange(len(same_N)), min(10, len(same_N)))
    fold_N = np.repeat(np.arange(len(folds)), [len(fold) for fold in folds])
    return Pairs(a_key_N=numbers[0::2], b_key_N=numbers[1::2], same_N=same_N, fold_N=fold_N)


def read_pairs(text: str, where: str) -> Pairs:
    """The pairs of a list.

    Args:
        text: the file's content.
        where: its name, for messages.

    Raises:
        DataError: naming the file and the first line that does not fit, or the number of lines that was expected.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{where}: it is empty; LFW's pairs format was expected")
    number, header = lines[0]
    try:
        counts = [int(word) for word in header.split()]
    except ValueError:
        counts = []
    if len(counts) not in (1, 2) or min(counts) < 1:
        raise DataError(
            f"{where}, line {number}: {header.strip()[:60]!r} is no header; 'folds<TAB>pairs a side' or 'pairs a side' "
            f"was expected"
        )
    folds, side = (1, counts[0]) if len(counts) == 1 else (counts[0], counts[1])
    expected = folds * 2 * side
    if len(lines) - 1 != expected:
        raise DataError(
            f"{where}: {len(lines) - 1} pairs, but the header announces {folds} x ({side} genuine + {side} impostor) "
            f"= {expected}; the file is cut short or its header is wrong"
        )
    rows = [_pair(line, f"{where}, line {number}") for number, line in lines[1:]]
    same_N = np.array([same for _, _, same in rows])
    fold_N = np.arange(expected) // (2 * side)
    for at, (number, _) in enumerate(lines[1:]):
        wanted = at % (2 * side) < side
        if same_N[at] != wanted:
            kinds = ("a genuine", "an impostor") if wanted else ("an impostor", "a genuine")
            raise DataError(
                f"{where}, line {number}: {kinds[1]} pair where fold {fold_N[at] + 1} must have {kinds[0]} one; "
                f"every fold has its {side} genuine pairs first"
            )
    return Pairs(
        a_key_N=np.array([a for a, _, _ in rows], dtype=object),
        b_key_N=np.array([b for _, b, _ in rows], dtype=object),
        same_N=same_N,
        fold_N=fold_N,
    )


def _pair(line: str, where: str) -> tuple[str, str, bool]:
    # Tabs first, so that names may have spaces.
    words = [w.strip() for w in line.split("\t")] if "\t" in line else line.split()
    try:
        if len(words) == 3:
            a, b = _key(words[0], words[1]), _key(words[0], words[2])
        elif len(words) == 4:
            a, b = _key(words[0], words[1]), _key(words[2], words[3])
        else:
            raise ValueError(f"{len(words)} columns")
    except ValueError as error:
        raise DataError(
            f"{where}: {line.strip()[:80]!r} is no pair ({error}); 'name i j' or 'name1 i name2 j' was expected"
        ) from None
    if a == b:
        raise DataError(f"{where}: the picture {a} is paired with itself")
    if len(words) == 4 and words[0] == words[2]:
        raise DataError(f"{where}: an impostor pair of one person, {words[0]}; write 'name i j' for a genuine pair")
    return a, b, len(words) == 3


def _key(name: str, number: str) -> str:
    if not name:
        raise ValueError("no name")
    if not number.isascii() or not number.isdigit() or int(number) < 1:
        raise ValueError(f"{number!r} is no picture number")
    return f"{name}/{name}_{int(number):04d}"
