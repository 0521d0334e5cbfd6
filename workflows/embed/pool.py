"""A pool of actors that units of work are handed out to: a bounded number at a time, and actors that die are replaced.

With decoders, a unit is decoded by a task first and the result goes to the actor that is free next; without, the actor
does it all. What a unit is and what is done with it is left to the caller.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from metric_core.errors import JobFailed, LikenessError
from workflows.shared import cluster

IN_FLIGHT = 2
"""Units per actor: the one that has the network, and the one that is read, decoded or written meanwhile."""
ATTEMPTS = 5
"""Times that a unit is handed out, when what it runs on dies or a store does not answer, before the job fails."""


class ActorPool:
    """Actors that have ``ready()`` and ``work(unit, decoded)``, for one run of units through them."""

    def __init__(
        self, start: Callable[[], Any], actors: int, decode: Callable[[Any], Any] | None = None, decoders: int = 0
    ) -> None:
        """``start()`` returns a new actor, ``decode(unit)`` a reference to what ``work`` gets as ``decoded``; up to
        ``decoders`` units are decoded at once."""
        self._started: float | None = None
        self._start, self._decode, self._decoders = start, decode, decoders
        self._ahead = decoders + IN_FLIGHT * actors
        self._actors = [start() for _ in range(actors)]
        self._waiting: deque[Any] = deque()
        self._decoding: dict[Any, Any] = {}
        self._decoded: deque[tuple[Any, Any]] = deque()
        self._running: dict[Any, tuple[Any, Any]] = {a.ready.remote(): (None, a) for a in self._actors}
        self._free: deque[Any] = deque()
        self._failures: Counter[Hashable] = Counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the first actor was ready."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    def run(self, todo: Iterable[Any]) -> Generator[tuple[Any, Any], None, None]:
        """Work off ``todo``: each unit with what ``work`` returned, as they get done; the actors end with the last one.

        Raises:
            LikenessError: what an actor raised on purpose, or JobFailed with the cause.
        """
        self._waiting.extend(todo)
        left = len(self._waiting)
        try:
            while left:
                self._hand_out()
                (reference,), _ = ray.wait([*self._running, *self._decoding], fetch_local=False)
                if reference in self._decoding:
                    self._decoded.append((self._decoding.pop(reference), reference))
                elif (answer := self._take(reference)) is not None:
                    left -= 1
                    yield answer
        except GeneratorExit:  # the job stops early: what is being embedded may still be committed
            if busy := [reference for reference, (unit, _) in self._running.items() if unit is not None]:
                ray.wait(busy, num_returns=len(busy), timeout=30)
            raise
        finally:
            for actor in self._actors:
                ray.kill(actor)

    def _hand_out(self) -> None:
        held = len(self._decoding) + len(self._decoded) + len(self._running)
        while self._decode and self._waiting and len(self._decoding) < self._decoders and held < self._ahead:
            unit = self._waiting.popleft()
            self._decoding[self._decode(unit)] = unit
            held += 1
        while self._free and (self._decoded if self._decode else self._waiting):
            places = self._places(self._decoded[0][0] if self._decode else self._waiting[0])
            actor = next((actor for actor in self._free if self._free.count(actor) >= places), None)
            if actor is None:
                return
            for _ in range(places):
                self._free.remove(actor)
            unit, decoded = self._decoded.popleft() if self._decode else (self._waiting.popleft(), None)
            self._running[actor.work.remote(unit, decoded)] = (unit, actor)

    def _places(self, unit: Any) -> int:
        """How many of an actor's places a unit takes: all once it has failed, so that what kills its process takes no
        other unit down with it again and again, and none is blamed for another."""
        return IN_FLIGHT if self._failures[unit] else 1

    def _take(self, reference: Any) -> tuple[Any, Any] | None:
        """A unit and what ``work`` returned; None when an actor has become ready, or has failed."""
        unit, actor = self._running.pop(reference)
        freed = [actor] * self._places(unit)
        try:
            answer = ray.get(reference)
        except RayActorError as error:
            self._replace(actor, unit, error)
            return None
        except RayError as error:
            self._failed(unit, error)
            self._free.extend(freed)
            return None
        if unit is None:
            self._started = self._started or time.monotonic()
            self._failures[None] = 0
            self._free.extend([actor] * IN_FLIGHT)
            return None
        self._free.extend(freed)
        return unit, answer

    def _replace(self, lost: Any, unit: Any, error: RayActorError) -> None:
        """Another actor for one that died with its process or node; its units are handed out again."""
        held = [unit, *(u for u, a in self._running.values() if a is lost)]
        for unit in held:
            self._failed(unit, error)
        ray.kill(lost)  # it may only be out of reach
        fresh = self._start()
        self._actors = [fresh if actor is lost else actor for actor in self._actors]
        self._free = deque(actor for actor in self._free if actor is not lost)
        self._running = {r: (u, a) for r, (u, a) in self._running.items() if a is not lost}
        self._running[fresh.ready.remote()] = (None, fresh)

    def _failed(self, unit: Any, error: RayError) -> None:
        """Put a unit back in front (None: an actor that did not come up). Raises when it has failed too often, or
        refused the unit on purpose."""
        if isinstance(error, RayTaskError) and not isinstance(error.cause, (OSError, RayError)):
            raise cluster.as_likeness_error(error) from error
        self._failures[unit] += 1
        if self._failures[unit] >= ATTEMPTS:
            cause: LikenessError = cluster.as_likeness_error(error)
            raise JobFailed(f"{unit or 'the actors'}: given up after {ATTEMPTS} attempts; {cause}") from error
        if unit is not None:
            self._waiting.appendleft(unit)
