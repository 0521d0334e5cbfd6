"""Small writers of the corpus formats, as their specifications say, for the tests of our readers."""

import io
import json
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MAGIC = struct.pack("<I", 0xCED7230A)


@dataclass(frozen=True)
class Picture:
    """One face to be written."""

    identity: str
    key: str
    data: bytes


def record(data: bytes) -> bytes:
    """One RecordIO record, as dmlc-core's RecordIOWriter::WriteRecord writes it."""
    out, begin, aligned = b"", 0, len(data) // 4 * 4
    for at in range(0, aligned, 4):
        if data[at : at + 4] == MAGIC:
            out += MAGIC + struct.pack("<I", (1 if begin == 0 else 2) << 29 | at - begin) + data[begin:at]
            begin = at + 4
    out += MAGIC + struct.pack("<I", (3 if begin else 0) << 29 | len(data) - begin) + data[begin:]
    return out + bytes(-len(data) % 4)


def image_record(number: int, labels: list[float], image: bytes) -> bytes:
    """MXNet's recordio.pack: one label in the header, several after it."""
    if len(labels) == 1:
        return record(struct.pack("<IfQQ", 0, labels[0], number, 0) + image)
    return record(struct.pack("<IfQQ", len(labels), 0, number, 0) + struct.pack(f"<{len(labels)}f", *labels) + image)


def write_recordio(path: Path, pictures: list[Picture], *, header: bool = False, index: bool = True) -> None:
    """Pictures under their keys, which are numbers; with a header they are numbered 1 to N, a person's in a row."""
    records = [(int(p.key), image_record(int(p.key), [float(p.identity)], p.data)) for p in pictures]
    if header:
        end = len(pictures) + 1
        people = sorted({int(p.identity) for p in pictures})
        records.insert(0, (0, image_record(0, [end, end + len(people)], b"")))
        for number, person in enumerate(people, start=end):
            keys = [int(p.key) for p in pictures if int(p.identity) == person]
            records.append((number, image_record(number, [min(keys), max(keys) + 1], b"")))
    lines, offset = [], 0
    for number, data in records:
        lines.append(f"{number}\t{offset}\n")
        offset += len(data)
    path.write_bytes(b"".join(data for _, data in records))
    if index:
        path.with_suffix(".idx").write_text("".join(lines))


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> None:
    """A plain tar of files."""
    with tarfile.open(path, "w:", format=form) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def webdataset(pictures: list[Picture]) -> dict[str, bytes]:
    """The members of a shard: each picture with a .cls beside it."""
    both = [(f"{p.key}.jpg", p.data, f"{p.key}.cls", p.identity.encode()) for p in pictures]
    return {name: data for jpg, image, cls, identity in both for name, data in ((jpg, image), (cls, identity))}


def write_parquet(path: Path, pictures: list[Picture], *, row_group: int = 5, names: list[str] | None = None) -> None:
    """Hugging Face's layout with a key; with ``names`` the label is a number that stands for one."""
    images = [{"bytes": p.data, "path": f"{p.key}.jpg"} for p in pictures]
    columns = {"image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    columns["key"] = pa.array([p.key for p in pictures])
    table = pa.table(columns | {"label": pa.array([p.identity for p in pictures])})
    if names is not None:
        table = pa.table(columns | {"label": pa.array([names.index(p.identity) for p in pictures])})
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=row_group)
