"""Addresses (local paths and anything fsspec knows) and the file system of each."""

import re
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from metric_core.errors import ConfigError

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,20}://"
_URL = re.compile(rf"""({_SCHEME})((?:(?![,;|]?{_SCHEME})[^\s"'<>`])*)""")
_NO_USER = ("abfs", "abfss", "wasb", "wasbs", "github")
"""Schemes in whose addresses ``@`` stands between two parts of the place."""
_USER = re.compile(r"[^/?#\s]*@|[^/?#@:\s]*:(?!\d{1,5}(?:[/?#]|$))[^?#\s]*@")
"""Before a host, up to the last ``@``. A password may hold a slash, as keys of S3 do, but none is taken for a port."""
_BARE_USER = re.compile(r"""(?<![^\s"'<>`=,;(\[])[^\s"'<>`/@:=,;(\[]+:[^\s"'<>`/@]+@(?=\w)""")
"""``user:password@`` before a host without a scheme, as libraries show it in their messages."""
_SECRET = re.compile(
    r"(?i)(?<=[?&])(?:[^=&#\s]*(?:password|passwd|pwd|secret|token|credential|signature|api[-_]?key|access[-_]?key)[^=&#]*"
    r"|user|username|sig|key|auth|x-(?:amz|goog)-[^=&#]*)=[^&#]*&?"
)
"""A parameter of a query that may let somebody in."""
_SIGNED = re.compile(r"(?i)[?&](?:sig|[^=&#]*(?:password|secret|token|signature))=")
"""One that surely does."""


def is_local(uri: str) -> bool:
    """Whether the address is a path on this machine, a mounted file system included."""
    return "://" not in uri or uri.startswith("file://")


def absolute(uri: str | Path) -> str:
    """The address, with a local path made absolute: worker processes run in other folders."""
    text = str(uri)
    if not is_local(text):
        return text.rstrip("/")
    return str(Path(text.removeprefix("file://")).expanduser().absolute())


def without_secrets(text: str) -> str:
    """The text with every address in it free of users, passwords and parameters of a query that let somebody in, such
    as ``password=``, ``token=`` and those of a signature. What remains of an address still names the same place."""
    return _BARE_USER.sub("", _URL.sub(lambda found: found[1] + _open_part(found[1], found[2]), text))


def _open_part(scheme: str, rest: str) -> str:
    """What everybody may read of what follows ``scheme``."""
    user = None if scheme.lower().startswith(_NO_USER) else _USER.match(rest)
    place, mark, query = rest[user.end() if user else 0 :].partition("?")
    kept = _SECRET.sub("", mark + query)
    return place + (kept if kept == mark + query else kept.rstrip("?&").replace("&#", "#").replace("?#", "#"))


def join(uri: str, *parts: str) -> str:
    """The address of something inside a folder."""
    return "/".join([uri.rstrip("/"), *parts])


def resolve(root: str, uri: str) -> str:
    """The address of ``uri``, which may be relative to ``root``."""
    return uri if uri.startswith("/") or "://" in uri else join(root, uri)


def file_system(uri: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    Raises:
        ConfigError: fsspec has none for it; or it holds a secret, which would be stored wherever it is.
    """
    if not is_local(uri):
        _require_no_secret(uri)
    fs, path = _s3(uri) if uri.startswith("s3://") else _by_protocol(uri)
    if not isinstance(fs, fsspec.AbstractFileSystem):
        raise ConfigError(f"{uri}: not an address that fsspec can open")
    fs.invalidate_cache(path)  # a cached listing lacks what other processes have written since
    return fs, path


def _require_no_secret(uri: str) -> None:
    scheme, _, rest = uri.partition("://")
    user = not scheme.lower().startswith(_NO_USER) and _USER.match(rest)
    if user or (scheme.startswith("http") and _SIGNED.search(rest)):
        raise ConfigError(
            f"{without_secrets(uri)}: this address was given with a user, a password or a signature, but artefacts "
            f"store addresses for others to read; leave them out and give them by variables or a profile (S3: "
            f"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; others: fsspec's FSSPEC_… variables)"
        )


def _by_protocol(uri: str) -> tuple[Any, str]:
    """The file system by what stands before ``://``. fsspec splits an address at every ``::`` to chain file systems;
    here ``::`` may also be part of a name, and chains only if it stands before ``://``."""
    protocol = "file" if is_local(uri) else uri.partition("://")[0]
    try:
        if "::" in protocol:
            return url_to_fs(uri)  # type: ignore[no-any-return]
        kind = fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        raise ConfigError(f"{uri}: {error}; expected a path, s3://… or another address that fsspec can open") from error
    except ImportError as error:
        raise ConfigError(f"{uri}: {protocol}:// needs a package that is not installed: {error}") from error
    try:
        return kind(**kind._get_kwargs_from_urls(uri)), kind._strip_protocol(uri)
    except (ConnectionError, TimeoutError):  # which may be over at the next try
        raise
    except Exception as error:  # each file system raises what it likes; one of archives opens the archive
        raise ConfigError(f"{uri}: {protocol}:// cannot be opened: {error}; check the address") from error


def _s3(uri: str) -> tuple[Any, str]:
    try:
        from metric_core.storage.s3 import S3
    except ImportError as error:
        raise ConfigError(f'{uri}: S3 needs s3fs ({error}); pip install "likeness-faces[s3]"') from error
    return S3(), S3._strip_protocol(uri)
