"""Synthetic people and their face vectors, whose scores are like those of real ones (see ``scores``).

A picture of person p is the direction of

    mean + centre_p + noise · spread_p · t · z,   spread_p log-normal, t · z multivariate Student-t,

where centre_p and z are normal with a power law as spectrum, rotated at random so that no component is special. Some
people are near-twins of another, and some pictures show another person than their label says.
"""

# P: people of a block, N: pictures, D: components.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.optimize import brentq

from metric_core import counter
from metric_core.artefacts import faces
from metric_core.artefacts.embeddings import Vectors

NAMESPACE = "minted"
PEOPLE = 4096
"""People per block: what is drawn at a time, and where twins and wrong labels come from."""


@dataclass(frozen=True)
class Law:
    """How vectors are distributed. Lengths are relative to the root mean square length of a person's centre."""

    mean: float
    """Length of the mean of all vectors; its square is about the mean impostor score."""
    between: float
    """Effective dimension, (Σλ)²/Σλ², of the people's centres."""
    within: float
    """Effective dimension of the differences between a person's pictures."""
    decay: float
    """Exponent of the power law of both spectra."""
    noise: float
    """Median length of those differences."""
    spread: float
    """Standard deviation, over people, of the logarithm of that length."""
    freedom: float
    """Degrees of freedom of Student's t, over a person's pictures."""
    twins: float = 0.015
    """Share of people whose centre is near another's."""
    twin_cosine: tuple[float, float] = (0.85, 0.97)
    """Range of the cosine between the centres of twins."""
    wrong: float = 0.01
    """Share of pictures that show another person than their label says."""
    log_pictures: tuple[float, float] = (1.0, 1.0)
    """Mean and standard deviation of the logarithm of a person's pictures beyond the first; five in all on average."""


LFW = Law(mean=2.65, between=6.55, within=28.0, decay=10.7, noise=0.806, spread=0.116, freedom=11.5)
"""Photographs: the valid people of lfw_dev, by a model of 500 training steps that has not seen them."""
DRAWN = Law(mean=0.386, between=9.19, within=36.9, decay=17.8, noise=0.335, spread=0.101, freedom=22.0)
"""Drawn people by the model of ``likeness demo``, which tells them apart far better than the other does photographs."""
# Both are what `vectors.py --compare --fit` found: the quantiles of genuine and of impostor scores, the upper tail of
# the latter, and rank-1 were brought as near to the real ones as they go, without twins and wrong labels, of which the
# real sets have few. Shares of twins and of wrong labels are assumptions.
LAWS = {"lfw": LFW, "drawn": DRAWN}


@dataclass(frozen=True)
class Population:
    """People and their pictures, drawn block by block; the same arguments always give the same vectors."""

    pictures_P: np.ndarray
    """int64 (all people,): number of pictures of each person, at least 1."""
    dim: int
    seed: int = 0
    law: Law = LFW

    @classmethod
    def of_rows(cls, rows: int, dim: int, seed: int = 0, law: Law = LFW) -> Population:
        """As many people as have ``rows`` pictures in total; the last one's are cut to fit.

        Raises:
            ValueError: ``rows`` is below 1.
        """
        if rows < 1:
            raise ValueError(f"rows is {rows}; a corpus has at least 1")
        random = counter.generator(seed, "pictures per person")
        pictures_P = (1 + random.lognormal(*law.log_pictures, rows)).astype(np.int64)  # at most one person per row
        total_P = np.cumsum(pictures_P)
        people = int(np.searchsorted(total_P, rows)) + 1
        pictures_P = pictures_P[:people]
        pictures_P[-1] -= total_P[people - 1] - rows
        return cls(pictures_P, dim, seed, law)

    @cached_property
    def scales(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 (D,) each: standard deviations of a centre's components, and of the noise's."""
        law = self.law
        between_D, within_D = (spectrum(self.dim, effective, law.decay) for effective in (law.between, law.within))
        return np.sqrt(between_D, dtype=np.float32), law.noise * np.sqrt(within_D, dtype=np.float32)

    @cached_property
    def rotation(self) -> np.ndarray:
        """float32 (D, D)."""
        random = counter.generator(self.seed, "rotation")
        rotation_DD, _ = np.linalg.qr(random.standard_normal((self.dim, self.dim)))
        return rotation_DD.astype(np.float32)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(int64 (N,) number of the person that a picture is labelled as, float32 (N, D) unit vectors) of each block. A
        person's pictures are next to each other."""
        for first in range(0, len(self.pictures_P), PEOPLE):
            centre_PD, spread_P = self._people(first)
            label_N = np.repeat(np.arange(len(spread_P)), self.pictures_P[first : first + PEOPLE])
            random = counter.generator(self.seed, "pictures", first)
            shown_N = label_N.copy()
            wrong_N = random.random(len(label_N)) < self.law.wrong
            shown_N[wrong_N] = random.integers(len(spread_P), size=int(wrong_N.sum()))
            yield first + label_N, self._pictures(centre_PD[shown_N], spread_P[shown_N], random)

    def probes(self, count: int) -> Vectors:
        """New pictures of ``count`` people, one each, drawn uniformly; they aren't in the corpus.

        Raises:
            ValueError: there are fewer people.
        """
        if count > len(self.pictures_P):
            raise ValueError(f"{count} probes were asked for; there are {len(self.pictures_P)} people")
        chosen = counter.generator(self.seed, "probes").choice(len(self.pictures_P), count, replace=False)
        person_N, found = np.sort(chosen), []
        for first in np.unique(person_N // PEOPLE * PEOPLE).tolist():
            centre_PD, spread_P = self._people(first)
            at_N = person_N[person_N // PEOPLE * PEOPLE == first] - first
            random = counter.generator(self.seed, "probe pictures", first)
            found.append(self._pictures(centre_PD[at_N], spread_P[at_N], random))
        name_N = np.array(names(person_N).to_pylist(), object)
        return Vectors(faces.face_ids(NAMESPACE, (f"probe/{name}" for name in name_N)), name_N, np.concatenate(found))

    def _people(self, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Centres (P, D), not rotated, and spreads (P,) of the block that begins with person ``first``."""
        law, count = self.law, min(PEOPLE, len(self.pictures_P) - first)
        random = counter.generator(self.seed, "people", first)
        centre_PD = random.standard_normal((count, self.dim), dtype=np.float32) * self.scales[0]
        twins = round(law.twins * count)
        if twins:
            partner_PD = centre_PD[random.integers(twins, count, size=twins)]
            cosine_P1 = random.uniform(*law.twin_cosine, size=(twins, 1)).astype(np.float32)
            centre_PD[:twins] = cosine_P1 * partner_PD + np.sqrt(1 - cosine_P1**2) * centre_PD[:twins]
        return centre_PD, np.exp(law.spread * random.standard_normal(count, dtype=np.float32))

    def _pictures(self, centre_ND: np.ndarray, spread_N: np.ndarray, random: np.random.Generator) -> np.ndarray:
        t_N = np.sqrt(self.law.freedom / random.chisquare(self.law.freedom, len(spread_N))).astype(np.float32)
        raw_ND = random.standard_normal(centre_ND.shape, dtype=np.float32)
        raw_ND *= self.scales[1]
        raw_ND *= (spread_N * t_N)[:, None]
        raw_ND += centre_ND
        # On the component that varies least: unit vectors vary across their mean rather than along it.
        raw_ND[:, -1] += self.law.mean
        emb_ND: np.ndarray = raw_ND @ self.rotation
        emb_ND /= np.linalg.norm(emb_ND, axis=1, keepdims=True)
        return emb_ND


def spectrum(dim: int, effective: float, decay: float) -> np.ndarray:
    """float64 (D,): variances (d + offset)^-decay of sum 1, with the offset that gives this effective dimension.

    Raises:
        ValueError: ``dim`` components can't have that effective dimension.
    """
    number_D = np.arange(1, dim + 1)

    def variances(log_offset: float) -> np.ndarray:
        variance_D = (number_D + np.exp(log_offset)) ** -decay
        scaled_D: np.ndarray = variance_D / variance_D.sum()
        return scaled_D

    def excess(log_offset: float) -> float:
        return float(1 / np.square(variances(log_offset)).sum() - effective)

    if not excess(-10) < 0 < excess(10):
        raise ValueError(f"{dim} components can't have an effective dimension of {effective:g}")
    return variances(brentq(excess, -10, 10))


def names(person_N: np.ndarray) -> pa.Array:
    """The identities of people with these numbers."""
    return pc.binary_join_element_wise("p", pc.utf8_lpad(pa.array(person_N).cast(pa.string()), 9, "0"), "")
