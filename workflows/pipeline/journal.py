"""What a run does, step by step: for its result and its page, and as runs of MLflow when there is a store for them."""

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from metric_core.errors import GateStopped
from workflows.pipeline.config import PipelineConfig
from workflows.shared.console import one_line, say

if TYPE_CHECKING:
    from workflows.shared.tracking import Tracker

EXPERIMENT = "likeness-pipeline"


@dataclass
class Step:
    """One step of a run."""

    name: str
    state: Literal["unchanged", "done", "stopped", "failed"] = "unchanged"
    note: str = ""
    """what was found, done, or in the way"""
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def row(self) -> dict[str, Any]:
        """For the result."""
        return asdict(self) | {"seconds": round(self.seconds, 2)}


class Journal:
    """The steps of a run so far. As a context manager it ends the MLflow run, if one was begun."""

    def __init__(self, config: PipelineConfig, name: str) -> None:
        """``name``: of the MLflow run."""
        self.steps: list[Step] = []
        self._config, self._name = config, name
        self._store = config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self._parent: Tracker | None = None
        self._runs, self._child = ExitStack(), ExitStack()

    def __enter__(self) -> "Journal":
        self._runs.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._runs.__exit__(*error)

    @property
    def changed(self) -> bool:
        """Whether anything was done."""
        return any(step.state == "done" for step in self.steps)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """A step, for the length of the block; ``begin`` says that something is to be done in it."""
        found, begun = Step(name), time.monotonic()
        self.steps.append(found)
        with self._child:
            try:
                yield found
            except BaseException as error:
                found.state = "stopped" if isinstance(error, GateStopped) else "failed"
                found.note = str(error) if isinstance(error, GateStopped) else one_line(error, 1000)
                raise
            finally:
                found.seconds = time.monotonic() - begun

    def begin(self, step: Step, why: str) -> None:
        """Something is done in a step; opens its MLflow run.

        Raises:
            ConfigError: the tracking server does not answer or refuses.
        """
        step.state, step.note = "done", why
        say(f"— {step.name}: {why}")
        if self._store:
            self._child.enter_context(self._logged(step, self._store))

    @contextmanager
    def _logged(self, step: Step, store: str) -> Iterator[None]:
        """A run of MLflow for the length of the step, below that of the pipeline."""
        from workflows.shared import tracking  # MLflow takes seconds to import

        if self._parent is None:
            tracking.require_ready(store, EXPERIMENT)
            self._parent = self._runs.enter_context(self._run(store, self._name, None))
        with self._run(store, step.name, self._parent.run_id) as tracker:
            begun = time.monotonic()
            try:
                yield
            finally:
                tracker.tag("note", next(iter(step.note.splitlines()), ""))  # below it a table may name people
                tracker.log(step.figures | {"seconds": time.monotonic() - begun}, step=0)

    def _run(self, store: str, name: str, parent: str | None) -> AbstractContextManager["Tracker"]:
        from workflows.shared import tracking

        config = self._config
        return tracking.start(
            store, EXPERIMENT, name, {} if parent else asdict(config), verbose=config.verbose, parent=parent
        )
