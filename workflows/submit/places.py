"""Addresses that only this machine knows, found before they are sent to a cluster. Nothing is opened or asked."""

import os
from collections.abc import Iterator
from dataclasses import fields
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from metric_core.storage import is_local

PATHS = frozenset(
    {"source", "out", "work", "splits", "tombstones", "faces", "model", "since", "embeddings", "index"}
) | frozenset({"picture", "image", "images", "gallery", "pairs", "probes", "matches", "list", "receipt", "old", "new"})
"""Options that hold addresses, as texts; so does tracking_uri, and no other."""
LISTED = frozenset({"embeddings", "since", "probes", "matches", "old", "new"})
"""Of these, the ones that hold several addresses: A,B."""
NOT_FILES = ("models:/", "runs:/", "mlflow-artifacts:/")
"""Addresses in MLflow, which look like relative paths."""


def is_this_machine(url: str) -> bool:
    """Whether a web address is a loopback one: the host is this machine, for who asks here."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # no address
        return False
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def of_job(config: Any, head: str, shared: list[str]) -> list[str]:
    """What is wrong with the addresses in a job's config, one line per problem.

    Args:
        config: the job's options.
        head: address of the cluster's job server. If it is this machine, absolute local paths are as good there.
        shared: absolute local folders that all nodes see under the same path.
    """
    problems = []
    for name, text in _texts(config):
        if name in PATHS:
            problems += _of_path(name, text, head, shared)
        elif name == "tracking_uri" and (line := _of_url(text, head)):
            problems.append(f"{name} is {text!r}, {line}")
    if getattr(config, "address", None) not in (None, "auto"):
        problems.append(
            f"address is {config.address!r}; the job joins the cluster that it is submitted to: leave it out"
        )
    return problems


def of_variables(values: dict[str, str], head: str) -> list[str]:
    """What is wrong with the values of environment variables that are sent; the values, secrets perhaps, are not
    shown."""
    found = {name: _of_url(value, head) for name, value in values.items()}
    return [f"pass_env: {name} holds an address, {line}" for name, line in found.items() if line]


def _texts(config: Any) -> Iterator[tuple[str, str]]:
    for field in fields(config):
        value = getattr(config, field.name)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str):
                yield from ((field.name, part) for part in (one.split(",") if field.name in LISTED else [one]) if part)


def _of_path(name: str, text: str, head: str, shared: list[str]) -> list[str]:
    if text.startswith(NOT_FILES):
        return []
    if not is_local(text):
        line = _of_url(text, head)
        return [f"{name} is {text!r}, {line}"] if line else []
    path = text.removeprefix("file://")
    if not path.startswith("/"):
        here = os.path.abspath(os.path.expanduser(path))
        return [f"{name} is {text!r}, a path relative to this folder, where the job does not run; write {here}"]
    below = any(os.path.commonpath([os.path.normpath(path), folder]) == os.path.normpath(folder) for folder in shared)
    if is_this_machine(head) or below:
        return []
    return [
        f"{name} is {text!r}, a path on this machine, and the head is another one; use s3:// or another object store, "
        f"or name the folder with --shared if all nodes see it"
    ]


def _of_url(text: str, head: str) -> str:
    """Why an address is no good on the cluster, as the end of a sentence; empty if it is, or is no address."""
    if is_this_machine(head):
        return ""
    scheme = text.partition(":")[0]
    if scheme in ("sqlite", "file"):
        return f"a {scheme} file of this machine, and the head is another one; name a server"
    if "://" in text and is_this_machine(text):
        return "which means this machine, and the head is another one; name this machine as the nodes see it"
    return ""
