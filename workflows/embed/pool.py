"""A pool of actors that work on units: a bounded number of units at a time, and actors that die are replaced.

With decoders, a task decodes a unit first and the result goes to the next free actor; without, the actor does both.
What a unit is, and what is done with it, is left to the caller.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from metric_core.errors import JobFailed, LikenessError
from workflows.shared import cluster
from workflows.shared.console import say

IN_FLIGHT = 2
"""Units per actor: one uses the network while the other one is read, decoded or written."""
ATTEMPTS = 5
"""How often a unit is handed out before the job fails, if its process dies or a store does not answer."""


class ActorPool:
    """Actors with the methods ``ready()`` and ``work(unit, decoded)``, for one call of ``run``."""

    def __init__(
        self,
        start: Callable[[], Any],
        actors: int,
        decode: Callable[[Any], Any] | None = None,
        decoders: int = 0,
        after_failure: Callable[[Any], Any] = lambda unit: unit,
    ) -> None:
        """``start()`` returns a new actor, ``decode(unit)`` a reference to what ``work`` gets as ``decoded``; at most
        ``decoders`` units are decoded at the same time. ``after_failure(unit)`` is handed out for a unit that has
        failed, and equals it."""
        self._started: float | None = None
        self._start, self._decode, self._decoders = start, decode, decoders
        self._after_failure = after_failure
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
        """Have ``todo`` done; yields each finished unit with the result of ``work``. The actors are stopped at the end.

        Raises:
            LikenessError: the one that an actor raised, or JobFailed with the cause.
        """
        self._waiting.extend(todo)
        left = len(self._waiting)
        try:
            while left:
                self._hand_out()
                (reference,), _ = ray.wait([*self._running, *self._decoding], fetch_local=False)
                if reference in self._decoding:
                    self._decoded.append((self._decoding.pop(reference), reference))
                elif (answer := self._collect(reference)) is not None:
                    left -= 1
                    yield answer
        except GeneratorExit:  # the job stops early: units in progress may still be committed
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
        """How many of an actor's places a unit takes: all of them once it has failed, so that a unit that kills its
        process fails no other units, and no unit is blamed for another one."""
        return IN_FLIGHT if self._failures[unit] else 1

    def _collect(self, reference: Any) -> tuple[Any, Any] | None:
        """A finished unit and the result of ``work``; None if an actor has become ready, or has failed."""
        unit, actor = self._running.pop(reference)
        freed = [actor] * self._places(unit)
        try:
            answer = ray.get(reference)
        except RayActorError as error:
            self._replace(actor, unit, error)
            return None
        except RayError as error:
            if not isinstance(error, RayTaskError):  # how Ray says that a decoder did not survive
                say("lost a decoding process; its unit is done again")
            self._requeue(unit, error)
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
        """Replace an actor whose process or node died; its units are handed out again."""
        held = [unit, *(u for u, a in self._running.values() if a is lost)]
        units = sum(unit is not None for unit in held)
        say(f"lost an actor; another one takes its place; units to do again: {units}")
        for unit in held:
            self._requeue(unit, error)
        ray.kill(lost)  # it may be alive but unreachable
        fresh = self._start()
        self._actors = [fresh if actor is lost else actor for actor in self._actors]
        self._free = deque(actor for actor in self._free if actor is not lost)
        self._running = {r: (u, a) for r, (u, a) in self._running.items() if a is not lost}
        self._running[fresh.ready.remote()] = (None, fresh)

    def _requeue(self, unit: Any, error: RayError) -> None:
        """Put a failed unit back in front of the queue; None: an actor that did not start. Raises LikenessError if it
        has failed ``ATTEMPTS`` times, or with an error that another attempt cannot help."""
        if isinstance(error, RayTaskError) and not isinstance(error.cause, (OSError, RayError)):
            raise cluster.as_likeness_error(error) from error
        self._failures[unit] += 1
        if self._failures[unit] >= ATTEMPTS:
            cause: LikenessError = cluster.as_likeness_error(error)
            raise JobFailed(f"{unit or 'the actors'}: given up after {ATTEMPTS} attempts; {cause}") from error
        if unit is not None:
            self._waiting.appendleft(self._after_failure(unit))
