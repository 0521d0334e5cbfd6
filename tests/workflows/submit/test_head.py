"""What is at an address that is no head, or does not answer, is said in one line."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from metric_core.errors import ConfigError, JobFailed
from workflows.submit import head
from workflows.submit.head import Head


class Answers(BaseHTTPRequestHandler):
    """Answers as its path says: /404, or a page."""

    def do_GET(self) -> None:
        code = int(self.path.split("/")[1])
        self.send_response(code)
        self.end_headers()
        self.wfile.write(b"a page")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/200", "is no Ray head; expected the address of its dashboard, http://HEAD:8265"),
        ("/404", "is no Ray head (HTTP 404); expected the address of its dashboard, http://HEAD:8265"),
        ("/502", "is no Ray head (HTTP 502); expected the address of its dashboard, http://HEAD:8265"),
    ],
)
def test_other_servers(path: str, said: str, server: str) -> None:
    with pytest.raises(ConfigError) as error:
        Head(server + path)
    assert str(error.value) == f"what answers at {server}{path} {said}"


def test_nobody_and_somebody_who_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "SECONDS", 0.2)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        for backlog, said in [(None, "Connection refused"), (1, "timed out")]:
            if backlog is not None:
                listening.listen(backlog)
            with pytest.raises(
                ConfigError, match=f"no Ray head answers at {address}: .*{said}; is it running"
            ) as error:
                Head(address)
            assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"no Ray head answers at http://127.0.0.1:port"):
        Head("http://127.0.0.1:port")


def test_errors_of_ray_s_client_are_one_line_each() -> None:
    for error, kind, said in [
        (
            RuntimeError("Request failed with status code 500: a\n  long\ntraceback."),
            JobFailed,
            "at H refused: traceback.",
        ),
        (ConnectionResetError("gone"), JobFailed, "the connection to H was lost: gone; a job that runs goes on"),
    ]:
        with pytest.raises(kind) as found, head._errors_as_ours("H"):
            raise error
        assert str(found.value).endswith(said)
