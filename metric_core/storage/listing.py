"""What is stored: names, sizes, and tags that change when the bytes do."""

import os
import stat
from collections.abc import Iterator
from typing import Any

from metric_core.errors import ConfigError, Missing, NotReadable
from metric_core.storage.addresses import file_system, is_local


def exists(uri: str) -> bool:
    """Whether there is a file, an object or a folder at the address."""
    fs, path = file_system(uri)
    return bool(fs.exists(path))


def is_file(uri: str) -> bool:
    """Whether there is a file or object (not a folder) at the address."""
    if is_local(uri):
        return os.path.isfile(uri.removeprefix("file://"))
    fs, path = file_system(uri)
    try:
        return bool(fs.info(path)["type"] == "file")  # fsspec's isfile returns False when a store does not answer
    except FileNotFoundError:
        return False


def is_folder(uri: str) -> bool:
    """Whether there is a folder at the address."""
    if is_local(uri):
        return os.path.isdir(uri.removeprefix("file://"))
    fs, path = file_system(uri)
    try:
        return bool(fs.info(path)["type"] == "directory")
    except FileNotFoundError:
        return False


def names(uri: str) -> list[str]:
    """Sorted names directly inside a folder; none when there is no folder. Raises ConfigError when it is a file."""
    fs, path = file_system(uri)
    try:
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False))
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise ConfigError(f"{uri} is a file; a folder was expected") from None


def files_and_folders(uri: str) -> tuple[list[str], list[str]]:
    """Sorted names of the files and of the folders directly inside a folder; a link counts as its target.

    Raises:
        NotReadable: it is no folder.
    """
    if is_local(uri):
        try:
            with os.scandir(uri) as inside:
                found = [(entry.name, entry.is_dir()) for entry in inside]
        except NotADirectoryError:
            raise NotReadable(f"{uri} is neither a file nor a folder, but perhaps a device or a pipe") from None
    else:
        fs, path = file_system(uri)
        found = [(e["name"].rstrip("/").rsplit("/", 1)[-1], e["type"] == "directory") for e in fs.ls(path, detail=True)]
    return sorted(n for n, folder in found if not folder), sorted(n for n, folder in found if folder)


def glob(pattern: str) -> list[str]:
    """Sorted addresses that match a pattern with ``*``, ``?`` or ``[...]``."""
    fs, path = file_system(pattern)
    protocol = "" if is_local(pattern) else pattern.split("://")[0] + "://"
    return [protocol + (found.lstrip("/") if protocol else found) for found in sorted(fs.glob(path))]


def size(uri: str) -> int:
    """Size of a file or object in bytes."""
    fs, path = file_system(uri)
    return int(fs.size(path))


def content_tag(uri: str) -> str:
    """A string that changes when the bytes do: size and mtime of a file, size and ETag of an object.

    Raises:
        Missing: there is nothing.
        NotReadable: there is something else than a file.
    """
    return _stat_tag(_stat(uri)) if is_local(uri) else _info_tag(_info(uri))


def require_file(uri: str) -> None:
    """Raise Missing if there is nothing at the address, and NotReadable if there is something else than a file."""
    if is_local(uri):
        _stat(uri)
    else:
        _info(uri)


def _info(uri: str) -> dict[str, Any]:
    fs, path = file_system(uri)
    try:
        info: dict[str, Any] = fs.info(path)
    except FileNotFoundError:
        raise Missing(f"{uri}: there is no such file") from None
    if info["type"] == "directory":
        raise NotReadable(f"{uri} is a folder; a file was expected")
    return info


def _stat(uri: str) -> os.stat_result:
    try:
        found = os.stat(uri.removeprefix("file://"))
    except FileNotFoundError:
        raise Missing(f"{uri}: there is no such file") from None
    require_regular(found, uri)
    return found


def require_regular(found: os.stat_result, uri: str) -> None:
    """Raise NotReadable if what was found at the address is something else than a file."""
    if not stat.S_ISREG(found.st_mode):
        raise NotReadable(f"{uri} is a {_KINDS.get(stat.S_IFMT(found.st_mode), 'device')}; a file was expected")


_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}


def walk(uri: str) -> Iterator[tuple[str, str]]:
    """(path relative to the folder, content tag) of every file below it, in byte order, without hidden ones. The tag of
    what is no file, a named pipe, a socket or a device, is empty."""
    if not is_local(uri):
        fs, root = file_system(uri)
        found = fs.find(root, detail=True)
        for path in sorted(found):
            relative = path[len(root.rstrip("/")) + 1 :]
            if not any(part.startswith(".") for part in relative.split("/")):
                yield relative, _info_tag(found[path])
        return
    yield from _walk_local(uri, "")


def link_out(uri: str) -> str | None:
    """The path of a link inside a local folder, at any depth, that leads out of the folder; None if there is none.
    Other stores have no links."""
    if not is_local(uri):
        return None
    path = uri.removeprefix("file://")
    root, folders = os.path.realpath(path), [path]
    while folders:
        try:
            inside = os.scandir(folders.pop())
        except (FileNotFoundError, NotADirectoryError):  # nothing there, or removed meanwhile
            continue
        with inside:
            for entry in inside:
                if entry.is_symlink():
                    if os.path.commonpath([root, os.path.realpath(entry.path)]) != root:
                        return entry.path
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    return None


def _walk_local(root: str, prefix: str) -> Iterator[tuple[str, str]]:
    with os.scandir(os.path.join(root, prefix)) as entries:
        # Folders sort with their slash, so that the order is that of whole paths, as in an object store.
        below = sorted((e.name + "/" if e.is_dir() else e.name, e) for e in entries if e.name[0] != ".")
    for name, entry in below:
        if name.endswith("/"):
            yield from _walk_local(root, prefix + name)
        else:
            try:
                found = entry.stat()
            except FileNotFoundError:  # a link without a target: reading it raises Missing
                found = entry.stat(follow_symlinks=False)
            is_file = stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)
            yield prefix + name, _stat_tag(found) if is_file else ""


def _stat_tag(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}"


def _info_tag(info: dict[str, Any]) -> str:
    tag = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("created")
    return f"{info['size']}-{str(tag).strip(chr(34))}"
