"""The options of ``likeness submit`` and ``likeness jobs``. The job's own options are checked with them."""

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from metric_core.errors import ConfigError
from metric_core.options import Options
from metric_core.storage.addresses import without_secrets
from workflows.submit import places

VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Environment variables that name the head, in the order in which Ray reads them."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
PORT = 8265
"""Port of the job server of a head, unless it was started with another one."""


@dataclass(frozen=True, kw_only=True)
class HeadOptions(Options):
    """Which cluster."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"cluster": ("address",)}

    address: str | None = None
    """Address of the cluster's job server, such as http://HEAD:8265; default: RAY_API_SERVER_ADDRESS or RAY_ADDRESS,
    where it begins with http. Its token is taken from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token."""

    @property
    def head(self) -> str:
        """The address of the job server, without a slash at its end; empty if none is given."""
        named = (os.environ.get(name, "") for name in VARIABLES)
        return (self.address or next((one for one in named if is_http(one)), "")).rstrip("/")

    def problems(self) -> list[str]:
        if not self.head:
            return ["no cluster is named; give --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS to it"]
        if not is_http(self.head):
            host = self.head.rpartition("://")[2].partition(":")[0] or "HEAD"
            return [f"address is {without_secrets(self.head)!r}; expected the job server's, http://{host}:{PORT}"]
        if without_secrets(self.head) != self.head:
            return ["address holds a password or a token, which no head reads there; set RAY_AUTH_TOKEN to its token"]
        return []


@dataclass(frozen=True, kw_only=True)
class SubmitConfig(HeadOptions):
    """Run a job on a cluster."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "job": ("command", "name", "wait", "detach"),
        "what is sent": ("wheel", "installed", "image", "pass_env", "shared"),
    }

    command: list[str] = field(default_factory=list, metadata={"positional": True, "remainder": True})
    """After --, the job with its options, as they would follow `likeness`."""
    name: str | None = None
    """Name of the submission; default: the job's name and a digest of its options. The same name attaches to a job that
    is running, says that a finished one is done, and continues one that failed or was stopped."""
    wait: bool = False
    """Show the job's lines until it ends and exit with its code; this is the default."""
    detach: bool = False
    """Return as soon as the job is submitted."""
    wheel: bool = False
    """Send a wheel of this checkout and, if nodes lack packages, have them installed in the versions here; this is the
    default."""
    installed: bool = False
    """Send nothing: all nodes have this version of Likeness."""
    image: str | None = None
    """Container image that has this version of Likeness, to run the job's processes in; the nodes need podman."""
    pass_env: list[str] = field(default_factory=list)
    """Names of environment variables that the job gets with their values here; whoever may read the cluster's jobs can
    see them. Nothing else of the environment is sent."""
    shared: list[str] = field(default_factory=list)
    """Local folders that every node sees under the same path, such as /mnt/faces; other local paths are refused unless
    the head is this machine."""

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.wait and self.detach:
            problems.append("wait and detach are both given; choose one")
        if sum([self.wheel, self.installed, self.image is not None]) > 1:
            problems.append("wheel, installed and image exclude each other; choose one")
        if self.name is not None and not NAME.fullmatch(self.name):
            problems.append(f"name is {self.name!r}; expected up to 100 letters, digits, dots, dashes or underscores")
        problems += [
            f"pass_env names {name!r}, which is not set here; set it or leave it out"
            for name in self.pass_env
            if name not in os.environ
        ]
        problems += [f"shared is {path!r}; expected an absolute path" for path in self.shared if path[:1] != "/"]
        passed = {name: os.environ.get(name, "") for name in self.pass_env}
        return problems + places.of_variables(passed, self.head) + self._problems_of_job()

    def _problems_of_job(self) -> list[str]:
        from workflows.arguments import command_line
        from workflows.cli import JOBS, job_of

        name, options = job_of(self.command)
        if not self.command:
            return ["-- JOB is missing: expected likeness submit [options] -- JOB [its options]"]
        if not name:
            return [f"there is no job {self.command[0]!r}; `likeness` lists them"]
        if issubclass(JOBS[name].config_class, HeadOptions):
            return [f"{name} runs here and cannot be submitted; drop `submit --`"]
        if {"-h", "--help", "--print-config"} & {*options}:
            return [f"--help and --print-config need no cluster; run `likeness {name}` with it"]
        try:
            config, _ = self.parsed
        except ConfigError as error:
            return [f"{name}: {without_secrets(line)}" for line in str(error).splitlines()]
        if any(without_secrets(text) != text for text in command_line(config)):
            return [
                f"{name}: an address holds a password or a token, which whoever may read the cluster's jobs could see; "
                "leave it to the nodes' own environment, or set it as an environment variable and --pass-env its name"
            ]
        return [f"{name}: {line}" for line in places.of_job(config, self.head, self.shared)]

    @cached_property
    def parsed(self) -> tuple[Any, list[str]]:
        """The job's own config, and which flags of the command go with it. Raises ConfigError if its options cannot
        work."""
        from workflows.arguments import parse
        from workflows.cli import JOBS, job_of

        name, options = job_of(self.command)
        config, flags = parse(JOBS[name].config_class, options)
        return config, [f"--{flag}" for flag in ("json", "private") if getattr(flags, flag)]


@dataclass(frozen=True, kw_only=True)
class ListConfig(HeadOptions):
    """Say which jobs there are."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"which": ("name",)}

    name: str | None = None
    """Only submissions of this name."""


@dataclass(frozen=True, kw_only=True)
class OneConfig(HeadOptions):
    """Look at one job, or stop it."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"which": ("name",)}

    name: str
    """Name of the submission; its latest job is meant. A job's own id also works."""


@dataclass(frozen=True, kw_only=True)
class LogsConfig(OneConfig):
    """Show what a job has said."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"which": ("follow",)}

    follow: bool = False
    """Go on until the job ends, and exit with its code."""


def is_http(address: str) -> bool:
    """Whether an address is a web address."""
    return address.startswith(("http://", "https://"))
