"""An S3-compatible server on loopback that can answer 500, or late, or not at all."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

LATE_S = 0.5


class Flaky:
    """Stands between clients and a store. What happens to a request is drawn from a seed, in the order of arrival."""

    def __init__(self, store: Callable[..., Iterable[bytes]], seed: int) -> None:
        self._store, self._draw, self._lock = store, random.Random(seed), threading.Lock()
        self.address = ""
        self.trouble = 0.0
        """Share of requests for each kind of trouble."""
        self.down_after: int | None = None
        """Number of finished units after which it answers only 500."""
        self.units = 0
        self.lose_next: str | None = None
        """HTTP method of the next request to be carried out without an answer."""
        self.forbid: str | None = None
        """Error code with which every request is refused; None: none is."""
        self.counts: Counter[str] = Counter()
        """Requests by what happened to them."""
        self.close: Callable[[], None] = lambda: None
        """Stop the server early."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if self.forbid:
            return _refused(environ, start_response, "403 Forbidden", self.forbid)
        with self._lock:
            what = self._what(environ)
            self.counts[what] += 1
        if what == "refused":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return _refused(environ, start_response, "500 Internal Server Error", "InternalError")
        if what == "answer lost":  # the store carries the request out, and the client does not learn of it
            list(self._store(environ, lambda *_: None))
            return _refused(environ, start_response, "500 Internal Server Error", "InternalError")
        if what == "late":
            time.sleep(LATE_S)
        return self._store(environ, start_response)

    def client(self) -> Any:
        """A client to look at the store with."""
        return boto3.client("s3", endpoint_url=self.address)

    @property
    def environment(self) -> dict[str, str]:
        """For a process that uses the server. Two attempts where there is no random trouble, to give up soon."""
        return ENVIRONMENT | {"AWS_ENDPOINT_URL": self.address, "AWS_MAX_ATTEMPTS": "5" if self.trouble else "2"}

    def _what(self, environ: dict[str, Any]) -> str:
        if self.down_after is not None and self.units >= self.down_after:
            return "refused"
        if environ["REQUEST_METHOD"] == "PUT" and "/done/" in environ["PATH_INFO"]:
            self.units += 1
        if environ["REQUEST_METHOD"] == self.lose_next:
            self.lose_next = None
            return "answer lost"
        drawn = self._draw.random()
        kinds = ("refused", "answer lost", "late")
        return next((kind for n, kind in enumerate(kinds, start=1) if drawn < n * self.trouble), "fine")


ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class _Silent(MotoRequestHandler):
    def log_request(self, *_: object) -> None:
        """Thousands of lines would hide what a test has to say."""


@contextmanager
def server(seed: int) -> Iterator[Flaky]:
    """A server, at first without trouble."""
    flaky = Flaky(DomainDispatcherApplication(create_backend_app), seed)
    listening = make_server("127.0.0.1", 0, flaky, threaded=True, request_handler=_Silent)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    flaky.address = f"http://127.0.0.1:{listening.server_port}"

    def close() -> None:
        listening.shutdown()
        thread.join()
        listening.server_close()

    flaky.close = close
    try:
        yield flaky
    finally:
        close()


def _refused(environ: dict[str, Any], start_response: Callable[..., Any], status: str, code: str) -> list[bytes]:
    body = f"<Error><Code>{code}</Code><Message>We encountered an internal error.</Message></Error>".encode()
    start_response(status, [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
