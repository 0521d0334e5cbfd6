"""Servers on loopback: one that answers every request alike, as a proxy in front of MLflow does, and MLflow itself."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from support.heads import closed_port, kill_family


@contextmanager
def server(status: int, body: str = "{}", kind: str = "application/json") -> Iterator[tuple[str, list[str]]]:
    """``HOST:PORT`` of a server while the block runs, and the requests that it got: method, path and login."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.command} {self.path} {self.headers.get('Authorization')}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.server_port}", seen
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


@contextmanager
def mlflow(folder: Path) -> Iterator[str]:
    """``HOST:PORT`` of a tracking server while the block runs: mlflow.db, stored/ and server.log are in the folder."""
    place = closed_port()
    host, _, port = place.partition(":")
    argv = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", port, "--workers", "1"]
    argv += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/stored"]
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder)
    try:
        deadline = time.monotonic() + 120
        while "startup complete" not in (folder / "server.log").read_text():
            assert time.monotonic() < deadline
            assert server.poll() is None
            time.sleep(0.1)
        yield place
    finally:
        kill_family(server.pid)
