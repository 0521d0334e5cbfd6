"""Tars of pictures, in WebDataset's layout or plain; images stay in the tar and are read later by their offset.

A sample is a run of members whose names are equal up to the first dot of the file name: ``a/0001.jpg, a/0001.cls``.
"""

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from metric_core import storage
from metric_core.artefacts import keys
from metric_core.errors import DataError
from metric_core.sources import bounds
from metric_core.sources.found import TWINS, Found, read_landmarks

PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstandard", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
"""Compression by a file's first bytes."""

SIDECARS = (".cls", ".json", ".txt")


@dataclass
class _Sample:
    name: str
    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(offset, length) by ending, in the spelling of the tar."""
    texts: dict[str, bytes] = field(default_factory=dict)
    """Sidecars by ending."""


def faces(root: str, file: str, ignored: Counter[str]) -> Iterator[Found]:
    """The faces of one tar in its order; the key is the sample's name, or from ``keys.of`` if it has several pictures.

    The identity is the text in ``.cls``, else ``identity`` or ``label`` in ``.json``, else ``.txt``, else the name of
    the member's folder. ``.json`` may have landmarks, too. The tar is scanned once from start to end; images are not
    read.

    Raises:
        DataError: the tar is compressed, damaged or cut short, or a sample has no identity or too many pictures.
        Missing: there is no such file.
    """
    address = storage.join(root, file)
    tag = storage.content_tag(address)
    with storage.open_read(address) as f:
        for sample in _samples(f, address, ignored):
            endings = _pictures(sample, address, ignored)
            if not endings:
                continue
            fields = _fields(sample, address)
            identity = _identity(sample, fields, address)
            points = read_landmarks(fields.get("landmarks"), f"{address}: {sample.name}.json")
            names = [sample.name]
            if len(endings) > 1:
                names = keys.of([sample.name + ending for ending in endings])
                ignored[TWINS] += len(names) - 1
            for ending, key in zip(endings, names):
                offset, length = sample.images[ending]
                yield Found(identity, key, file, tag, kind="tar", offset=offset, length=length, landmarks=points)


def compressed_error(address: str, how: str) -> DataError:
    """The error for a tar that is compressed as a whole."""
    return DataError(
        f"{address} is compressed ({how}), so single pictures in it cannot be read; unpack it to a plain .tar, which "
        f"is hardly larger because pictures are compressed already"
    )


def _samples(f: BinaryIO, address: str, ignored: Counter[str]) -> Iterator[_Sample]:
    head = f.read(8)
    for magic, how in PACKED.items():
        if head.startswith(magic):
            raise compressed_error(address, how)
    f.seek(0)
    sample = _Sample("")
    for member in _members(f, address):
        name = str(PurePosixPath(member.name))
        folder, slash, base = name.rpartition("/")
        stem, dot, ending = base.partition(".")
        if member.isdir() or not stem:  # hidden; an image tree ignores such files, too
            continue
        if not member.isreg():
            ignored["(link)"] += 1
            continue
        if folder + slash + stem != sample.name:
            yield sample
            sample = _Sample(folder + slash + stem)
        spelled = dot + ending
        ending = spelled.lower()
        if PurePosixPath(ending[1:]).suffix in keys.IMAGE_ENDINGS or ending in keys.IMAGE_ENDINGS:
            sample.images[spelled] = (member.offset_data, member.size)
        elif ending in SIDECARS:
            bounds.require_few(member.size, bounds.SIDECAR, f"{address}: {member.name}")
            f.seek(member.offset_data)
            sample.texts[ending] = f.read(member.size)
        else:
            ignored[ending or "(none)"] += 1
    yield sample


def _members(f: BinaryIO, address: str) -> Iterator[tarfile.TarInfo]:
    try:
        headers = bounds.Headers(f, address)
        with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="backslashreplace") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # otherwise every header stays in memory
                headers.taken = 0
                bounds.require_progress(member, tar.offset, address)
                if member.issparse() and _has_holes(member):
                    raise DataError(f"{address}: {member.name} is a sparse file; pack the tar without --sparse")
                yield member
            f.seek(tar.offset)
    except (tarfile.TarError, RecursionError) as error:  # the latter from a chain of long names
        raise DataError(f"{address} cannot be read as a tar: {error}; it is damaged or was cut short") from error
    # tarfile treats a damaged header as the end; the true end is a block of zeros.
    if f.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataError(
            f"{address}: neither a member nor the end of the tar at byte {tar.offset}; it is damaged or was cut short"
        )


def _has_holes(member: tarfile.TarInfo) -> bool:
    pieces: Any = member.sparse
    return [length for _, length in pieces if length] != [member.size]


def _pictures(sample: _Sample, address: str, ignored: Counter[str]) -> list[str]:
    """Endings of the sample's faces: those like .jpg; if there are none, one like .face.jpg."""
    plain = [ending for ending in sample.images if ending.lower() in keys.IMAGE_ENDINGS]
    found = plain or list(sample.images)
    if len(found) > 1 and not plain:
        raise DataError(
            f"{address}: {sample.name} has the pictures {', '.join(found[:3])}: which is the face? Names are cut at "
            f"the first dot; name the face {sample.name}.jpg, and give the others another name or one more dot"
        )
    ignored.update(ending.lower() for ending in sample.images if ending not in found)
    return found


def _fields(sample: _Sample, address: str) -> dict[str, Any]:
    """The fields of the .json sidecar, and the texts of the other sidecars under their endings."""
    try:
        texts = {ending: data.decode().strip() for ending, data in sample.texts.items()}
        fields = json.loads(texts.pop(".json", "") or "{}")
    except ValueError as error:
        raise DataError(f"{address}: a sidecar of {sample.name} is not text or not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{address}: {sample.name}.json holds {str(fields)[:40]}; expected an object")
    return fields | texts


def _identity(sample: _Sample, fields: dict[str, Any], address: str) -> str:
    label = fields.get(".cls") or fields.get("identity", fields.get("label", ""))
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise DataError(f"{address}: {sample.name}.json has the identity {label!r}; expected a name or number")
    folder = PurePosixPath(sample.name).parent.name
    identity = str(label) or fields.get(".txt") or folder
    if not identity:
        raise DataError(
            f"{address}: {sample.name} has no identity; expected {sample.name}.cls, a .json with identity or "
            f"label, a .txt, or a folder named after the person"
        )
    return identity
