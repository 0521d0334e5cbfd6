"""Decides what a run has to do, from what is there: pure functions, but for reading the live version's manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from metric_core.errors import Corrupt, FingerprintMismatch, Missing, Unfinished
from metric_core.index.store import IndexStore
from metric_core.index.version import Version
from workflows.index.changes import Base


@dataclass(frozen=True)
class Live:
    """The version that answers now."""

    version: Version
    digest: str
    fingerprint: str
    plans: list[str]
    """the plan ids of the embeddings that it consists of, in order"""
    rows: int
    people: int

    @classmethod
    def of(cls, index: str) -> "Live | None":
        """The live version of an index; None if there is none, or ``CURRENT`` is damaged: a build makes one.

        Raises:
            ConfigError: its format is too old, or it is not known what it was built from.
            Corrupt: its manifest is damaged.
        """
        try:
            version = IndexStore(index).current()
        except (Missing, Unfinished, Corrupt):
            return None
        return of_version(version)


def of_version(version: Version) -> Live:
    """What a finished version is of. Raises as ``Live.of``."""
    base = Base.of(version)
    content = base.content
    return Live(version, base.stored.digest, content.fingerprint, base.plans, content.rows, content.people)


@dataclass(frozen=True)
class Way:
    """How the index gets what it lacks."""

    how: Literal["nothing", "add", "build"]
    why: str
    plans: Sequence[str] = ()
    """of the embeddings to add, in order; those of a build are all"""


def way(live: Live | None, chain: Sequence[str], fingerprint: str, *, rebuild: bool, erased: bool) -> Way:
    """How the index gets what it lacks.

    Args:
        live: the live version.
        chain: plan ids of all embeddings by the model, in order; at least one.
        fingerprint: of the model.
        rebuild: whether a full build is asked for.
        erased: whether anybody was erased, who may still be in the live version.
    """
    if live is None:
        return Way("build", "there is no index yet")
    if live.fingerprint != fingerprint:
        return Way("build", "the live version is of another model")
    if rebuild:
        return Way("build", "asked for by --rebuild")
    if list(chain[: len(live.plans)]) != live.plans:
        return Way("build", "the live version is of other embeddings than those in --work")
    if left := list(chain[len(live.plans) :]):
        return Way("add", f"{len(left)} embeddings are not in the live version", left)
    if erased:
        return Way("add", "somebody was erased", [chain[-1]])
    return Way("nothing", "the live version has all embeddings")


def require_same_model(live: Live | None, fingerprint: str, model: str, *, upgrade: bool) -> None:
    """Raises FingerprintMismatch if the live version is of another model, unless an upgrade is asked for."""
    if live is None or upgrade or live.fingerprint == fingerprint:
        return
    raise FingerprintMismatch(
        f"--model {model} is {fingerprint}, the live version {live.version.id} of {live.version.index_uri} is of model "
        f"{live.fingerprint}; give that one, or --upgrade to embed everything with the new one and switch over"
    )


def too_many_gone(gone: int, live: Live | None, most: float) -> str | None:
    """Why a run stops that would take too much out of the live version; None if it may go on.

    Args:
        gone: faces of earlier runs that the source no longer has.
        live: the live version.
        most: share of its faces that may be gone.
    """
    if live is None or gone <= most * live.rows:
        return None
    return (
        f"{gone:,} faces of earlier runs are not in the source any more; the live version, which stays, has "
        f"{live.rows:,}, and --max-gone allows {most:.0%} of them to go; mount the whole source, or repeat the command "
        f"with --force if they are gone on purpose"
    )
