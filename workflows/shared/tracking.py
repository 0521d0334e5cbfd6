"""MLflow: one run per job, its curves, and the registered model. The only module that imports it.

The driver alone talks to MLflow; workers hand their figures to the driver.
"""

import errno
import logging
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # stdout is for results
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its 7 take minutes; ``outbox`` tries again

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.types import Schema, TensorSpec
from mlflow.utils import logging_utils
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.rest_utils import http_request
from requests.utils import get_environ_proxies, prepend_scheme_if_needed, select_proxy
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from metric_core import storage
from metric_core.errors import ConfigError, JobFailed, Missing
from metric_core.model import bundle
from metric_core.model.bundle import Model
from metric_core.model.spec import ModelSpec
from workflows.shared import provenance
from workflows.shared.console import one_line, say
from workflows.shared.outbox import Entry, Outbox

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""Environment variable of the store that the user wants."""
TAG_CHARACTERS = 5000
"""Most that every version of MLflow takes of a tag's value."""
FOR_GOOD = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
"""Codes of errors that the same request would get again, for example because its run was deleted."""
KNOCK_S = 10.0
"""Seconds in which a store must answer."""
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Of addresses that name none."""
HOME = Path("~/.likeness").expanduser()
SERVING = "metric_core.model.serving"
"""Stored in every registered model: MLflow imports it to serve one, so it must keep its name."""
MOST_METRICS, MOST_TAGS = 1000, 100
"""What MLflow takes in one request (its ``log_batch``)."""


def default_uri() -> str:
    """``MLFLOW_TRACKING_URI`` when it is set, else an SQLite file in ``~/.likeness``."""
    return os.environ.get(TRACKING_URI) or f"sqlite:///{HOME / 'mlflow.db'}"


def how_to_open(uri: str) -> str:
    """The command that shows the runs in a browser."""
    return f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite") else uri


@dataclass
class Tracker:
    """One MLflow run, open for writing. As a context manager it ends the run with the status of the block."""

    uri: str
    """Of the store, without user and password."""
    run_id: str
    verbose: bool
    _client: MlflowClient = field(repr=False)
    _seen: dict[str, int] = field(default_factory=dict, repr=False)
    """The last step of each figure that was logged."""
    _latest: int = field(default=0, repr=False)
    """The time of the last figure, in milliseconds: MLflow orders a curve by time, and a clock may be put back."""
    _outbox: Outbox = field(default_factory=Outbox, repr=False)

    def __post_init__(self) -> None:
        self._outbox.open(self._send)

    def keep_in(self, outbox: Outbox) -> None:
        """Send through this outbox from now on, first what an earlier run left in it."""
        for entry in outbox.left:  # that run may have been ahead of the last checkpoint
            self._seen |= dict.fromkeys(entry.get("figures", {}), entry.get("step", 0))
            self._latest = max(self._latest, entry.get("time", 0))
        self._outbox.close()
        self._outbox = outbox
        outbox.open(self._send)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        ended = "FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        try:
            self.finish(ended)
        except JobFailed as unsent:
            if kind is None and self._outbox.keeps:  # so that the same command has something to send
                raise
            say(str(unsent))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log the figures of a step, now or once MLflow answers. Steps that were logged before a restart are not logged
        again."""
        fresh = {k: float(v) for k, v in figures.items() if step > self._seen.get(k, -1)}
        if fresh:
            self._latest = max(self._latest, int(time.time() * 1000))
            self._seen |= dict.fromkeys(fresh, step)
            self._outbox.put({"figures": fresh, "step": step, "time": self._latest})

    def tag(self, name: str, value: str) -> None:
        """Set a tag of the run, now or once MLflow answers."""
        self._outbox.put({"tag": name, "value": storage.without_secrets(value)[:TAG_CHARACTERS]})

    def _send(self, entries: list[Entry]) -> str | None:
        """For the outbox. MLflow takes a figure of a step that it has with the same time and value for the same one."""
        figures = [
            Metric(name, value, one["time"], one["step"])
            for one in entries
            for name, value in one.get("figures", {}).items()
        ]
        tags = [RunTag(one["tag"], one["value"]) for one in entries if "tag" in one]
        try:
            for start in range(0, len(figures), MOST_METRICS):
                self._client.log_batch(self.run_id, metrics=figures[start : start + MOST_METRICS])
            for start in range(0, len(tags), MOST_TAGS):
                self._client.log_batch(self.run_id, tags=tags[start : start + MOST_TAGS])
        except (MlflowException, OSError) as error:
            if getattr(error, "error_code", None) not in FOR_GOOD:
                return one_line(error)
            say(f"MLflow refuses {len(entries)} points of the curves, which are left out: {one_line(error)}")
        return None

    def attach_text(self, text: str, name: str) -> None:
        """Store a text file with the run; a store that does not take it is told of."""
        try:
            self._client.log_text(self.run_id, text, name)
        except (MlflowException, OSError) as error:
            say(f"MLflow did not store {name} ({one_line(error)}); the job goes on without it")

    def register(self, folder: str, spec: ModelSpec, name: str) -> str:
        """Log a Model artefact in a local folder as an MLflow model that embeds pixels, and register it.

        Returns:
            Its address, ``models:/NAME/VERSION``.

        Raises:
            JobFailed: MLflow does not answer or refuses.
        """
        how, dim = spec.preprocessing, spec.backbone.dim
        shape = (-1, how.channels, how.size, how.size)
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.uint8), shape)]),
            outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, dim))]),
        )
        try:
            with _quiet(self.verbose), mlflow.start_run(run_id=self.run_id):
                info = mlflow.pyfunc.log_model(
                    name="model",
                    loader_module=SERVING,
                    data_path=folder,
                    signature=signature,
                    pip_requirements=["likeness-faces"],  # given, because inferring them takes 10 s
                )
            with _quiet(self.verbose):  # through the client: the fluent call prints to stderr at every log level
                if not self._client.search_registered_models(f"name = '{name}'"):
                    self._client.create_registered_model(name)
                logged = self._client.get_logged_model(info.model_id)
                place = logged.artifact_location
                made = self._client.create_model_version(name, place, self.run_id, model_id=logged.model_id)
        except (MlflowException, OSError) as error:
            raise JobFailed(
                f"the training is complete, but MLflow did not register its model ({one_line(error)}); start "
                f"again with the same arguments when MLflow answers, and only that is done"
            ) from error
        return f"models:/{name}/{made.version}"

    def finish(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED; ``resume`` can open it again.

        Raises:
            JobFailed: MLflow does not answer; what it did not get is kept for the next run of the same command.
        """
        unsent = self._outbox.close()
        problem = f"{unsent} points of its curves were not sent" if unsent else None
        try:
            if not unsent:
                with _quiet(verbose=False):
                    self._client.set_terminated(self.run_id, status)
        except (MlflowException, OSError) as error:
            problem = f"it does not know that the run has ended: {one_line(error)}"
        if problem:
            then = "the same command sends what is missing" if self._outbox.keeps else "they are not kept"
            raise JobFailed(f"MLflow does not answer; {problem}; {then}")


def start(
    uri: str, experiment: str, name: str, params: Mapping[str, Any], *, verbose: bool, parent: str | None = None
) -> Tracker:
    """Create a run called ``name``; ``parent``: id of the run of the same experiment that it is a part of.

    Raises:
        ConfigError: the tracking server does not answer or refuses.
    """
    with _client(uri, verbose) as client:
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment, _artifacts(uri))
        run_id = client.create_run(experiment_id, run_name=name).info.run_id
        client.log_batch(run_id, params=[Param(k, storage.without_secrets(str(v))[:500]) for k, v in params.items()])
        if parent:
            client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent)
        commit = provenance.git_commit()
        if commit:
            client.set_tag(run_id, "mlflow.source.git.commit", commit)
        return Tracker(storage.without_secrets(uri), run_id, verbose, client)


def resume(uri: str, run_id: str, *, verbose: bool) -> Tracker:
    """Open an earlier run again.

    Raises:
        ConfigError: the tracking server does not answer or refuses.
    """
    with _client(uri, verbose) as client:
        client.set_terminated(run_id, "RUNNING")
        run = client.get_run(run_id)
        curves = {key: client.get_metric_history(run_id, key) for key in run.data.metrics}
        # A store may list a figure whose curve it has lost.
        seen = {key: max(m.step for m in curve) for key, curve in curves.items() if curve}
        latest = max((m.timestamp for curve in curves.values() for m in curve), default=0)
        return Tracker(storage.without_secrets(uri), run_id, verbose, client, seen, latest)


@contextmanager
def _client(uri: str, verbose: bool) -> Iterator[MlflowClient]:
    with _quiet(verbose):
        try:
            prepared = _prepared(uri)
            _use(prepared)  # registering a model goes through its fluent calls
            yield MlflowClient(tracking_uri=prepared)
        except (MlflowException, OSError) as error:
            raise ConfigError(
                storage.without_secrets(f"MLflow at {uri} cannot be used: {error}; correct --tracking-uri")
            ) from error


def load_model(uri: str) -> Model:
    """The Likeness model inside a registered MLflow model. Raises Missing; ConfigError if nothing answers; and else as
    ``bundle.load``."""
    with _answering(default_uri()):
        _use(_prepared(default_uri()))
    with tempfile.TemporaryDirectory(prefix="likeness-") as folder, _quiet(False):
        try:
            path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
        except MlflowException as error:
            store = storage.without_secrets(default_uri())
            raise Missing(f"{uri}: MLflow at {store} has no such model ({error})") from error
        inside = [p.parent for p in path.rglob("manifest.json")]
        if not inside:
            raise Missing(f"{uri} is an MLflow model but holds no Likeness model")
        return replace(bundle.load(str(inside[0])), uri=uri)


def _use(uri: str) -> None:
    """Make this the store of MLflow's fluent calls. MLflow also sets the environment variable that says which store the
    user wants, for later jobs of this process, too."""
    before = os.environ.get(TRACKING_URI)
    mlflow.set_tracking_uri(uri)
    os.environ.pop(TRACKING_URI, None)
    if before is not None:
        os.environ[TRACKING_URI] = before


def _prepared(uri: str) -> str:
    """The address for MLflow, once the SQLite store exists. The user and the password in a server's address go where
    MLflow looks for them as well, so that nothing that it prints or stores has them."""
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///")).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(path, _artifacts(uri))
    if not uri.startswith(("http://", "https://")) or (parts := urlsplit(uri)).username is None:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    if parts.password is not None:
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return storage.without_secrets(uri)


def _create(path: Path, artifacts: str | None) -> None:
    """Make an SQLite store beside its place and put it there when it is complete. MLflow fills it step by step for
    seconds, and one that was left half made blocks everything after it."""
    new = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        SqlAlchemyStore(f"sqlite:///{new}", artifacts).engine.dispose()
        os.link(new, path)
    except FileExistsError:  # another process was faster
        pass
    except OSError:  # a file system without hard links
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _artifacts(uri: str) -> str | None:
    """Where the artifacts of an SQLite store go: beside it. MLflow's default would be the current folder."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(storage.absolute(uri.removeprefix("sqlite:///"))).with_name("mlartifacts").as_uri()


@contextmanager
def _quiet(verbose: bool) -> Iterator[None]:
    if verbose:
        yield
        return
    # Alembic has its own loggers; the switch covers MLflow's, and what it prints about the registry.
    alembic = logging.getLogger("alembic")
    before = alembic.level
    alembic.setLevel(logging.ERROR)
    logging_utils.disable_logging()
    try:
        yield
    finally:
        logging_utils.enable_logging()
        alembic.setLevel(before)


def require_ready(uri: str, experiment: str, model: str | None = None) -> None:
    """Check that the store answers, and that this user may write a run of the experiment and register ``model``.
    Nothing is written. MLflow's own client would try for five minutes.

    Raises:
        ConfigError: the store does not answer, or refuses.
    """
    with _answering(uri) as server:
        if uri.startswith("sqlite:///"):
            _require_writable_file(uri)
        elif uri.startswith(("http://", "https://")):
            _require_server(_prepared(uri), experiment, model)
        elif server:
            _require_database(uri)


@contextmanager
def _answering(uri: str) -> Iterator[bool]:
    """Knock at the host of a store; whether there is one. Errors of the block become ConfigError."""
    shown = asked = storage.without_secrets(uri)
    try:
        if proxy := _proxy(uri):
            asked = f"{storage.without_secrets(proxy)}, the proxy for {shown}"
        place = urlsplit(proxy or uri)
        port = place.hostname and (place.port or PORTS.get(place.scheme.partition("+")[0]))
        if port:
            socket.create_connection((place.hostname, port), timeout=KNOCK_S).close()
        yield bool(port)
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        remedy = "correct HTTP_PROXY, HTTPS_PROXY or NO_PROXY" if proxy else "correct --tracking-uri"
        raise ConfigError(f"nothing answers at {asked}, the MLflow store ({error}); start it or {remedy}") from error
    except (OSError, ValueError, MlflowException, SQLAlchemyError) as error:
        said = " ".join(str(error).partition("[SQL")[0].split())
        raise ConfigError(
            storage.without_secrets(
                f"the MLflow store {shown} cannot be used: {said}; mend it or correct --tracking-uri"
            )
        ) from error


def _proxy(uri: str) -> str | None:
    """Address of the proxy through which MLflow's client, which is requests, goes to a server; None if it goes there
    itself."""
    if not uri.startswith(("http://", "https://")):
        return None
    found = select_proxy(uri, get_environ_proxies(uri))
    return found and prepend_scheme_if_needed(found, "http")


def _require_server(uri: str, experiment: str, model: str | None) -> None:
    """Ask for a run and a model version that cannot be: whoever may not write is refused before that is noticed."""
    login = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    creds, api = get_default_host_creds(uri), "/api/2.0/mlflow"
    once: dict[str, Any] = {"max_retries": 0, "timeout": KNOCK_S, "raise_on_status": False}

    def answer(method: str, what: str, right: str, **more: Any) -> Any:
        found = http_request(creds, f"{api}/{what}", method, **once, **more)
        if found.status_code == 401:
            raise ConfigError(f"MLflow at {uri} answers but refuses the user or the password; {login}")
        if found.status_code == 403:
            raise ConfigError(
                f"MLflow at {uri} answers but this user may not {right}; ask for the right to, or {login}"
            )
        if found.status_code >= 500 or "application/json" not in found.headers.get("Content-Type", ""):
            raise ConfigError(
                f"what answers at {uri} is no MLflow server, or one in trouble (HTTP {found.status_code} for {what}); "
                f"correct --tracking-uri, or see the server's log"
            )
        return found.json()

    named = {"params": {"experiment_name": experiment}}
    there = answer("GET", "experiments/get-by-name", f"read the experiment {experiment!r}", **named)
    if "experiment" in there:
        asked = {"experiment_id": there["experiment"]["experiment_id"], "start_time": "never"}
        answer("POST", "runs/create", f"write to the experiment {experiment!r}", json=asked)
    if model is not None:
        answer("POST", "model-versions/create", f"register the model {model!r}", json={"name": model})


def _require_database(uri: str) -> None:
    """Ask the database to change nothing. Raises SQLAlchemyError or OSError."""
    seconds = {"timeout" if uri.startswith("sqlite") else "connect_timeout": int(KNOCK_S)}
    engine = create_engine(uri, connect_args=seconds)
    try:
        with engine.connect() as connection:
            if inspect(connection).has_table("experiments"):
                connection.execute(text("UPDATE experiments SET name = name WHERE 1 = 0"))
            connection.rollback()
    finally:
        engine.dispose()


def _require_writable_file(uri: str) -> None:
    """Raises as ``_require_database``, and OSError where no file can be made."""
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0]).expanduser().absolute()
    if path.exists():
        _require_database(uri)
        return
    folder = next(one for one in path.parents if one.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise PermissionError(errno.EACCES, "no file can be made in it", str(folder))
