"""The job server of a cluster's head: reached, let in, and asked, with each failure as one line of ours."""

import asyncio
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

from metric_core.errors import ConfigError, JobFailed, LikenessError
from workflows.submit.config import PORT, VARIABLES

SECONDS = 10.0
"""Longest wait for the head's first answer; Ray's own client waits for ever."""
MODE = "RAY_AUTH_MODE"
"""Environment variable that makes Ray send its token, with the value ``token``."""
TOKENS = "RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token"
UNAUTHORISED, FORBIDDEN = 401, 403
"""HTTP's answers to who brings no token, and to who brings a wrong one."""
EXPECTED = f"expected the address of its dashboard, http://HEAD:{PORT}"


class Head:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """Connect.

        Raises:
            ConfigError: nothing answers within ``SECONDS``, what answers is no head, or it does not let us in.
        """
        self.address = address
        if _asks_for_a_token(address):
            os.environ[MODE] = "token"  # read when Ray is imported
        with _errors_as_ours(address), _ray_reads(address):
            from ray.dashboard.modules import dashboard_sdk
            from ray.job_submission import JobSubmissionClient

            for module in (JobSubmissionClient.__module__, dashboard_sdk.__name__):
                logging.getLogger(module).setLevel(logging.WARNING)  # else each upload is two lines
            self._client = JobSubmissionClient(address)

    def submit(self, entrypoint: str, job_id: str, runtime_env: dict[str, Any], metadata: dict[str, str]) -> None:
        """Submit a job under an id that the cluster has not seen yet."""
        with _errors_as_ours(self.address):
            self._client.submit_job(
                entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env, metadata=metadata
            )

    def jobs(self) -> list[Any]:
        """Ray's ``JobDetails`` of all submitted jobs that the head remembers, the oldest first."""
        with _errors_as_ours(self.address):
            found = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(found, key=lambda job: job.start_time or 0)

    def job(self, job_id: str) -> Any:
        """Ray's ``JobDetails`` of one job."""
        with _errors_as_ours(self.address):
            return self._client.get_job_info(job_id)

    def stop(self, job_id: str) -> bool:
        """Ask a job to end; False if it had ended before."""
        with _errors_as_ours(self.address):
            return bool(self._client.stop_job(job_id))

    def log(self, job_id: str) -> str:
        """What a job has written so far."""
        with _errors_as_ours(self.address):
            return str(self._client.get_job_logs(job_id))

    def forget(self, job_id: str) -> None:
        """Take a job that has ended off the head's list."""
        with _errors_as_ours(self.address):
            self._client.delete_job(job_id)

    def hosts(self) -> list[str]:
        """The host names of the machines, or containers, that the cluster's nodes run on; none while the head does not
        know them yet."""
        with _errors_as_ours(self.address):
            answer = self._client._do_request("GET", "/nodes?view=hostNameList")
        return sorted(answer.json()["data"]["hostNameList"]) if answer.ok else []

    def follow(self, job_id: str, show: Callable[[str], None]) -> None:
        """Call ``show`` with what a job writes, from its beginning, until it ends."""

        async def tail() -> None:
            async for text in self._client.tail_job_logs(job_id):
                show(text)

        with _errors_as_ours(self.address):
            try:
                asyncio.run(tail())
            except RuntimeError as error:  # how Ray's client says that the connection was closed
                raise ConnectionError(str(error)) from error


def _asks_for_a_token(address: str) -> bool:
    """Whether a head at the address lets nobody in without a token. Raises ConfigError if there is none."""
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=SECONDS) as answer:
            found = answer.read(10_000)
    except urllib.error.HTTPError as error:
        if error.code in (UNAUTHORISED, FORBIDDEN):
            return True
        raise ConfigError(f"what answers at {address} is no Ray head (HTTP {error.code}); {EXPECTED}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            f"no Ray head answers at {address}: {reason or type(error).__name__}; is it running, with its dashboard "
            f"listening where this machine reaches it (ray start --head --dashboard-host)?"
        ) from error
    if b"ray_version" not in found:
        raise ConfigError(f"what answers at {address} is no Ray head; {EXPECTED}")
    return False


@contextmanager
def _ray_reads(address: str) -> Iterator[None]:
    """While the block runs, the environment names this address; Ray prefers it to the one that it is given."""
    before = {name: os.environ.pop(name, None) for name in VARIABLES}
    os.environ[VARIABLES[0]] = address
    try:
        yield
    finally:
        del os.environ[VARIABLES[0]]
        os.environ.update({name: value for name, value in before.items() if value is not None})


@contextmanager
def _errors_as_ours(address: str) -> Iterator[None]:
    """Replace Ray's errors, some of them pages long, and those of the network."""
    import aiohttp
    from ray.exceptions import AuthenticationError

    try:
        yield
    except LikenessError:
        raise
    except AuthenticationError as error:
        raise ConfigError(_why_not_let_in(address, str(error))) from error
    except (OSError, aiohttp.ClientError) as error:  # those of requests are OSErrors
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise JobFailed(f"the connection to {address} was lost: {first[:200]}; a job that runs goes on") from error
    except (RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise JobFailed(f"the head at {address} refused: {lines[-1][:300]}") from error


def _why_not_let_in(address: str, message: str) -> str:
    if message.startswith("Authentication failed"):
        return f"the head at {address} does not accept the token; correct it in {TOKENS}"
    if message.startswith("RAY_AUTH_TOKEN_PATH"):
        return f"{message.split('. ')[0]}; the head at {address} wants a token"
    return f"the head at {address} wants a token and there is none; put the cluster's into {TOKENS}"
