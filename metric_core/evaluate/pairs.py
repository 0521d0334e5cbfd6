"""Pairs of pictures and their scores; lists of pairs, in the format of LFW's ``pairs.txt``.

    10 <tab> 300                        10 folds of 300 genuine and 300 impostor pairs (one number: a single fold)
    Abel_Pacheco <tab> 1 <tab> 4        genuine: pictures 1 and 4 of one person
    Zico <tab> 2 <tab> Ruth <tab> 1     impostor: picture 2 of one person, picture 1 of another

Picture 4 of Abel_Pacheco has the key ``Abel_Pacheco/Abel_Pacheco_0004``, its path in LFW without the extension.
InsightFace's .bin files contain both pictures and pairs; their keys are the pictures' numbers.
"""

from dataclasses import dataclass

import numpy as np

from metric_core import storage
from metric_core.errors import DataError
from metric_core.sources import pickled


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures to compare, given by their keys."""

    a_key_N: np.ndarray
    """object (N,), str"""
    b_key_N: np.ndarray
    """object (N,), str"""
    same_N: np.ndarray
    """bool (N,): whether both show one person"""
    fold_N: np.ndarray
    """int64 (N,), from 0"""

    def __len__(self) -> int:
        return len(self.same_N)


@dataclass(frozen=True)
class PairScores:
    """Scores of pairs, and the number of pairs that could not be scored."""

    score_N: np.ndarray
    """float64 (N,), cosine similarity"""
    same_N: np.ndarray
    """bool (N,): whether both show one person"""
    fold_N: np.ndarray
    """int64 (N,)"""
    skipped: int = 0
    """Pairs with a picture that is not among the embeddings."""


def load(address: str) -> Pairs:
    """The pairs of a list in LFW's format, or of an InsightFace .bin file. The latter are divided into 10 consecutive
    folds of equal length, as InsightFace does (``verification.py``, KFold without shuffling).

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
        where: the file's name, for messages.

    Raises:
        DataError: the text is not such a list; the message names the file and the first bad line, or the expected
            number of pairs.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{where} is empty; LFW's pairs format was expected")
    number, header = lines[0]
    try:
        counts = [int(word) for word in header.split()]
    except ValueError:
        counts = []
    if len(counts) not in (1, 2) or min(counts) < 1:
        raise DataError(
            f"{where}, line {number}: {header.strip()[:60]!r} is not a header; 'FOLDS<TAB>N' or 'N' was expected, for "
            f"N genuine and N impostor pairs per fold"
        )
    folds, each = (1, counts[0]) if len(counts) == 1 else (counts[0], counts[1])
    expected = folds * 2 * each
    if len(lines) - 1 != expected:
        raise DataError(
            f"{where}: {len(lines) - 1} pairs, but the header announces {folds} x ({each} genuine + {each} impostor) "
            f"= {expected}; the file is truncated or its header is wrong"
        )
    rows = [_pair(line, f"{where}, line {number}") for number, line in lines[1:]]
    same_N = np.array([same for _, _, same in rows])
    fold_N = np.arange(expected) // (2 * each)
    for at, (number, _) in enumerate(lines[1:]):
        wanted = at % (2 * each) < each
        if same_N[at] != wanted:
            kinds = ("a genuine", "an impostor") if wanted else ("an impostor", "a genuine")
            raise DataError(
                f"{where}, line {number}: {kinds[1]} pair where fold {fold_N[at] + 1} must have {kinds[0]} one; "
                f"every fold starts with its {each} genuine pairs"
            )
    return Pairs(
        a_key_N=np.array([a for a, _, _ in rows], dtype=object),
        b_key_N=np.array([b for _, b, _ in rows], dtype=object),
        same_N=same_N,
        fold_N=fold_N,
    )


def _pair(line: str, where: str) -> tuple[str, str, bool]:
    # If there are tabs, only they separate columns, so that names may have spaces.
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
            f"{where}: {line.strip()[:80]!r} is not a pair ({error}); 'name i j' or 'name1 i name2 j' was expected"
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
        raise ValueError(f"{number!r} is not a picture number")
    return f"{name}/{name}_{int(number):04d}"
