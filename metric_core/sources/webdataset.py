"""Tars of pictures, in WebDataset's layout or plain; images stay in the tar and are read later by their offset.

A sample are the members whose names are equal up to the first dot of the file name: ``a/0001.jpg, a/0001.cls``. Who it
is, and which picture a sidecar belongs to, is in ``naming``.
"""

import errno
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from metric_core import storage
from metric_core.artefacts import keys
from metric_core.errors import DataError
from metric_core.sources import bounds, naming
from metric_core.sources.found import LINKS, SPECIAL, TWINS, Found, Notes, read_landmarks

APPENDED = "tar -r and tar -u append later copies; unpack it, where the last copy remains, and pack it again"
"""What to do about a name that a tar has twice."""
PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstandard", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
"""Compression by a file's first bytes."""

MALFORMED = (tarfile.TarError, ValueError, OverflowError, IndexError, RecursionError, MemoryError)
"""What the standard library raises for bytes that are not a tar; RecursionError from a chain of long names."""

_Span = tuple[int, int]
"""Offset and length in bytes."""


@dataclass
class _Members:
    pictures: dict[str, _Span] = field(default_factory=dict)
    """In the order of the tar."""
    sidecars: dict[str, naming.Sidecar] = field(default_factory=dict)
    """By the name with its ending in lower case."""
    files: dict[str, _Span] = field(default_factory=dict)
    """Others that a hard link can refer to."""


def faces(root: str, file: str, notes: Notes, level: int | None = None, unlabelled: bool = False) -> Iterator[Found]:
    """The faces of one tar in its order; the key is the sample's name, or the picture's own from ``keys.of`` where a
    sample has several pictures.

    The tar is scanned once from start to end, and only then the first face is known: a sidecar can stand anywhere.
    Images are not read.

    Raises:
        DataError: the tar is compressed, damaged or cut short, holds a name twice, or a picture has no identity or may
            not be the face.
        Missing: there is no such file.
    """
    address = storage.join(root, file)
    tag = storage.content_tag(address)
    with storage.open_read(address) as f:
        members = _read(f, address, notes)
    key_of = _keys(members, address, notes)
    lone = dict.fromkeys(members.sidecars)
    for name, key in key_of.items():
        owned = naming.sidecars_of(name, members.sidecars) if members.sidecars else {}
        for sidecar in owned.values():
            lone.pop(sidecar, None)
        said = {ending: members.sidecars[sidecar] for ending, sidecar in owned.items()}
        identity = naming.person(name, said, notes.folders, level, address, unlabelled=unlabelled)
        points = said[".json"].landmarks if ".json" in said else None
        landmarks = read_landmarks(points, f"{address}: {owned.get('.json')}")
        offset, length = members.pictures[name]
        yield Found(identity, key, file, tag, kind="tar", offset=offset, length=length, landmarks=landmarks)
    notes.ignored.update(keys.ending(name) for name in lone)


def compressed_error(address: str, how: str) -> DataError:
    """The error for a tar that is compressed as a whole."""
    return DataError(
        f"{address} is compressed ({how}), so single pictures in it cannot be read; unpack it to a plain .tar, which "
        f"is hardly larger because pictures are compressed already"
    )


def _read(f: BinaryIO, address: str, notes: Notes) -> _Members:
    head = f.read(8)
    for magic, how in PACKED.items():
        if head.startswith(magic):
            raise compressed_error(address, how)
    size = f.seek(0, os.SEEK_END)
    f.seek(0)
    members = _Members()
    for member in _members(f, address, size):
        name = str(PurePosixPath(member.name))
        if member.isdir():
            continue
        if member.isreg():
            span = (member.offset_data, member.size)
        elif member.islnk():
            span = _target(member, members, address)
        else:
            notes.ignored[LINKS if member.issym() else SPECIAL] += 1
            continue
        _enter(members, name, span, f, address, notes)
    return members


def _target(member: tarfile.TarInfo, members: _Members, address: str) -> _Span:
    """The bytes of the member that a hard link refers to; it comes first in a tar."""
    name = str(PurePosixPath(member.linkname))
    found = members.pictures.get(name) or members.files.get(name)
    if found is None:
        raise DataError(
            f"{address}: {member.name} is a hard link to {name}, which is not before it in the tar; pack both into one "
            f"tar, or use tar --hard-dereference"
        )
    return found


def _enter(members: _Members, name: str, span: _Span, f: BinaryIO, address: str, notes: Notes) -> None:
    last = keys.ending(name).lower()
    hidden = any(part.startswith(".") and part != ".." for part in name.split("/"))
    if not hidden and last in keys.IMAGE_ENDINGS:
        naming.enter(members.pictures, name, span, address, APPENDED)
        return
    members.files[name] = span
    if hidden:  # an image tree ignores such files, too
        return
    if last in naming.SIDECARS:
        f.seek(span[0])
        said = naming.read_sidecar(last, f.read(min(span[1], bounds.SIDECAR + 1)))
        naming.enter(members.sidecars, keys.plain(name) + last, said, address, APPENDED)
    else:
        notes.ignored[_cut(name) or "(none)"] += 1


def _cut(name: str) -> str:
    """The ending from the first dot on, in lower case."""
    return name[len(naming.up_to_first_dot(name)) :].lower()


def _members(f: BinaryIO, address: str, size: int) -> Iterator[tarfile.TarInfo]:
    try:
        headers = bounds.Headers(f, address)
        with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="backslashreplace") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # otherwise every header stays in memory
                headers.taken = 0
                if member.issparse() and _has_holes(member):
                    raise DataError(f"{address}: {member.name} is a sparse file; pack the tar without --sparse")
                if not 0 <= member.size <= size - member.offset_data:  # tarfile goes round in circles if it is negative
                    raise DataError(
                        f"{address}: {member.name} has {member.size} bytes from byte {member.offset_data} on, but the "
                        f"tar has {size}; it is damaged or was cut short"
                    )
                yield member
            f.seek(tar.offset)
    except MALFORMED as error:
        raise _damaged(address, error) from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # a place before the start of the file
            raise _damaged(address, error) from error
        raise
    # tarfile treats a damaged header as the end; the true end is a block of zeros.
    if f.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataError(
            f"{address}: neither a member nor the end of the tar at byte {tar.offset}; it is damaged or was cut short"
        )


def _damaged(address: str, error: Exception) -> DataError:
    what = str(error) or type(error).__name__
    return DataError(f"{address} cannot be read as a tar: {what}; it is damaged or was cut short")


def _has_holes(member: tarfile.TarInfo) -> bool:
    pieces: Any = member.sparse
    return [length for _, length in pieces if length] != [member.size]


def _keys(members: _Members, address: str, notes: Notes) -> dict[str, str]:
    """The keys of the pictures that are faces, by their names in the order of the tar."""
    samples: dict[str, list[str]] = {}
    for name in members.pictures:
        samples.setdefault(naming.up_to_first_dot(name), []).append(name)
    key_of = dict.fromkeys(members.pictures, "")
    for sample, pictures in samples.items():
        if len(pictures) == 1 and not _has_its_own(pictures[0], members):
            key_of[pictures[0]] = sample
            continue
        chosen = _faces_of(sample, pictures, members, address)
        names = keys.of(chosen)
        if twins := keys.count_with_ending(chosen, names):
            notes.ignored[TWINS] += twins
        key_of.update(zip(chosen, names))
        for name in set(pictures) - set(chosen):
            del key_of[name]
            notes.ignored[_cut(name)] += 1
    return key_of


def _has_its_own(name: str, members: _Members) -> bool:
    """Whether a sidecar names this picture alone, although its name has several dots."""
    stem = keys.plain(name)
    return stem != naming.up_to_first_dot(name) and any(stem + ending in members.sidecars for ending in naming.SIDECARS)


def _faces_of(sample: str, pictures: list[str], members: _Members, address: str) -> list[str]:
    """Of the pictures of one sample, the faces: those with sidecars of their own and those like .jpg; if there are none
    like .jpg, those like .face.jpg, which must be one if the sample has a sidecar."""
    own = [name for name in pictures if _has_its_own(name, members)]
    plain = [name for name in pictures if keys.plain(name) == sample]
    others = plain or [name for name in pictures if name not in own]
    if len(others) > 1 and not plain and any(sample + ending in members.sidecars for ending in naming.SIDECARS):
        endings = ", ".join(name[len(sample) :] for name in others[:3])
        raise DataError(
            f"{address}: {sample} has the pictures {endings}: which is the face? Names are cut at the first dot; name "
            f"the face {sample}.jpg, and give the others another name or one more dot"
        )
    return [name for name in pictures if name in own or name in others]
