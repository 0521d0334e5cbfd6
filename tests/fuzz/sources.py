"""Every kind of source, as ``likeness catalogue`` scans it, with the lists that go with one."""

import io
import pickle
import struct
import tarfile
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz import changes
from fuzz.case import Case, Change, Draw, Format
from hypothesis import strategies as st
from PIL import Image
from support import shard_writers
from support.hostile import encode
from support.shard_writers import Picture

from metric_core.errors import LikenessError
from metric_core.evaluate import pairs
from metric_core.sources import catalogue, fetching
from metric_core.sources.found import Found

FETCHED = 8
"""Pictures that are read back."""


def read_source(address: Path, out: Path) -> int:
    """Catalogue a source, and read some of its pictures; returns the number of faces."""
    source = catalogue.scan(str(address))
    found = list(source.faces)
    catalogue.write(str(out), [catalogue.to_table(found, "fuzz")] if found else [], "fuzz", source.notes)
    for answer in fetching.fetch_many(source.root, [asdict(face) for face in found[:FETCHED]]):
        if not isinstance(answer, bytes | LikenessError):
            raise TypeError(f"{answer!r} is neither a picture nor an error")
    return len(found)


def _in_file(case: Case, folder: Path) -> int:
    (folder / "source").mkdir()
    path = folder / "source" / case.file
    for name in ("0.jpg", "1.jpg"):
        (folder / "source" / name).write_bytes(JPEG)
    path.write_bytes(case.data)
    return read_source(path, folder / "out")


JPEG = encode(Image.new("L", (8, 8), 128), "JPEG")
PICTURES = [Picture(f"{number // 2}", f"{number:04d}", JPEG[: 40 + number]) for number in range(6)]


def _written(folder: Path, name: str, write: object, *more: object, **options: object) -> bytes:
    write(folder / name, *more, **options)  # type: ignore[operator]
    return (folder / name).read_bytes()


# A folder: a line per file, with its name, a tab and its content, in which \\n and \\t stand for themselves.

NAMES = b"\n".join(
    (b"ann/1.jpg\tx", b"ann/2.png\ty", b"bob/1.jpg\tz", b'bob/1.json\t{"identity": "bob"}', b"bob/1.cls\tbob")
)
SIDECARS = b"\n".join(
    (b"1.jpg\tx", b"1.txt\tann", b"2.0.jpg\ty", b'2.json\t{"label": "bob", "landmarks": [1,2,3,4,5,6,7,8,9,10]}')
)


def _tree(case: Case, folder: Path) -> int:
    root = folder / "source"
    root.mkdir()
    for line in case.data.split(b"\n")[:200]:
        name, _, body = line.partition(b"\t")
        parts = [part for part in name.split(b"/") if part not in (b"", b".", b"..") and b"\0" not in part]
        path = Path(str(root), *(part.decode("utf-8", "surrogateescape")[:250] for part in parts[:20]))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        except OSError:  # the file system has no such names
            continue
    return read_source(root, folder / "out")


def _recordio(case: Case, folder: Path) -> int:
    """The .rec or the .idx is another one."""
    for name, data in _recordio_seeds(folder).items():
        (folder / name).write_bytes(data)
    (folder / case.file).write_bytes(case.data)
    return read_source(folder / f"{case.file.partition('.')[0]}.rec", folder / "out")


def _recordio_seeds(folder: Path) -> dict[str, bytes]:
    out = {}
    marked = [Picture(p.identity, str(int(p.key) + 1), p.data + shard_writers.MAGIC * 2) for p in PICTURES]
    for name, pictures, options in (("plain", PICTURES, {}), ("train", marked, {"header": True})):
        shard_writers.write_recordio(folder / f"{name}.rec", pictures, **options)
        for ending in (".rec", ".idx"):
            out[name + ending] = (folder / (name + ending)).read_bytes()
    return out


def _tars(folder: Path) -> dict[str, bytes]:
    named = shard_writers.webdataset(PICTURES)
    boxed = {"a/1.jpg": JPEG, "a/1.json": b'{"identity": "ann", "landmarks": [1,2,3,4,5,6,7,8,9,10]}', "b/2.jpg": JPEG}
    long = {f"{'x' * 120}/{number}.jpg": JPEG for number in range(2)}
    forms = (("web.tar", named, tarfile.USTAR_FORMAT), ("json.tar", boxed, tarfile.PAX_FORMAT))
    forms += (("long.tar", long, tarfile.GNU_FORMAT),)
    return {name: _written(folder, name, shard_writers.write_tar, inside, form) for name, inside, form in forms}


def _pickles(folder: Path) -> dict[str, bytes]:
    images = [picture.data for picture in PICTURES]
    return {f"{protocol}.bin": pickle.dumps((images, [True, False, True]), protocol) for protocol in (0, 1, 2, 4, 5)}


CSV = b"path,identity,key,view,split,landmarks\n0.jpg,ann,k0,left,train,1 2 3 4 5 6 7 8 9 10\n1.jpg,bob,k1,,valid,\n"


def _csvs(folder: Path) -> dict[str, bytes]:
    return {"list.csv": CSV, "plain.csv": b'"path","identity"\r\n"0.jpg","a ""b"" c"\r\n"1.jpg","d\ne"\r\n'}


def _parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)  # type: ignore[arg-type]
    return sink.getvalue()


POINTS = [float(number) for number in range(10)]


def _lists(folder: Path) -> dict[str, bytes]:
    columns = {"path": ["0.jpg", "1.jpg"], "identity": ["ann", "bob"]}
    more = {"key": ["k0", "k1"], "view": ["left", None], "split": ["train", "valid"], "landmarks": [POINTS, None]}
    return {
        "list.parquet": _parquet(pa.table(columns | more)),
        "plain.parquet": _parquet(pa.table(columns), compression="zstd"),
    }


def _hugging_face(folder: Path) -> dict[str, bytes]:
    pictures = [Picture(p.identity, p.key, p.data * 20) for p in PICTURES]
    names = ["0", "1", "2"]
    out = {"named.parquet": _written(folder, "named.parquet", shard_writers.write_parquet, pictures, names=names)}
    out["text.parquet"] = _written(folder, "text.parquet", shard_writers.write_parquet, pictures, row_group=2)
    paths = [{"bytes": None, "path": "0.jpg"}, {"bytes": JPEG * 9, "path": None}]
    image = pa.array(paths, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    both = pa.table({"image": image, "identity": ["ann", "bob"], "landmarks": [POINTS, POINTS]})
    out["paths.parquet"] = _parquet(both, compression="zstd")
    out["plain.parquet"] = _parquet(pa.table({"image": [JPEG, JPEG], "label": [0, 1]}), compression="gzip")
    return out


def _splits(case: Case, folder: Path) -> int:
    (folder / case.file).write_bytes(case.data)
    split_of = catalogue.read_splits(str(folder / case.file))
    table = catalogue.with_splits(_catalogued(), split_of)
    return len(table)


def _catalogued() -> pa.Table:
    return catalogue.to_table([Found(who, who, f"{who}.jpg", "1-2") for who in ("ann", "bob", "cleo")], "fuzz")


def _split_tables(folder: Path) -> dict[str, bytes]:
    table = pa.table({"identity": ["ann", "bob"], "split": ["train", "valid"]})
    return {"splits.csv": b"identity,split\nann,train\nbob,valid\n", "splits.parquet": _parquet(table)}


def _pairs(case: Case, folder: Path) -> int:
    (folder / case.file).write_bytes(case.data)
    return len(pairs.load(str(folder / case.file)))


PAIRS = b"2\t1\nann\t1\t2\nann\t1\tbob\t3\nbob\t1\t2\nbob\t1\tcleo\t3\n"


def _labels(draw: Draw, data: bytes) -> bytes:
    """A record's flag, label or number is another one."""
    at = data.find(shard_writers.MAGIC, draw(st.integers(0, len(data) - 40)))
    kind, new = draw(
        st.sampled_from(
            (("<I", 0), ("<I", 1), ("<I", 2**28), ("<f", float("nan")), ("<f", 1e30), ("<f", -1), ("<f", 0.5))
        )
    )
    at = max(at, 0) + draw(st.sampled_from((4, 8, 12, 16, 24, 28, 32, 36)))
    return data[:at] + struct.pack(kind, new) + data[at + 4 :]


def _by_ending(**known: list[Change]):  # type: ignore[no-untyped-def]
    return lambda name: known[name.rpartition(".")[2]]


def is_parquet(case: Case) -> bool:
    """Whether the footer of a Parquet file can be parsed."""
    if not (case.data.startswith(b"PAR1") and case.data.endswith(b"PAR1")):
        return False
    try:
        return pq.read_metadata(pa.BufferReader(case.data)).num_columns > 0
    except (pa.ArrowException, OSError, ValueError):
        return False


def _is_text_table(case: Case) -> bool:
    if case.file.endswith(".csv"):
        return b"identity" in case.data.split(b"\n")[0]
    return is_parquet(case)


def _is_tar(case: Case) -> bool:
    return case.data[257:262] == b"ustar"


BOUNDS = "metric_core/sources/bounds.py"
TABLES = ("metric_core/sources/tables.py", "metric_core/sources/found.py")
NAMING = ("metric_core/sources/naming.py", "metric_core/artefacts/keys.py", "metric_core/sources/catalogue.py")

FORMATS = [
    Format(
        "folder",
        lambda folder: {"names": NAMES, "sidecars": SIDECARS},
        _tree,
        lambda case: b".jpg\t" in case.data,
        lambda name: [changes.lines, changes.lines],
        ("metric_core/sources/folder.py", *NAMING),
        magics=(b"\n", b".", b"/", b"{"),
    ),
    Format(
        "tar",
        _tars,
        _in_file,
        _is_tar,
        lambda name: [changes.tar, changes.tar, changes.members],
        ("metric_core/sources/webdataset.py", BOUNDS, *NAMING),
        magics=(b"ustar", b"@LongLink"),
    ),
    Format(
        "recordio",
        _recordio_seeds,
        _recordio,
        lambda case: case.data[:4] == shard_writers.MAGIC if case.file.endswith(".rec") else case.data[:1].isdigit(),
        _by_ending(rec=[_labels, changes.near((shard_writers.MAGIC,))], idx=[changes.lines]),
        ("metric_core/sources/recordio.py",),
        magics=(shard_writers.MAGIC,),
    ),
    Format(
        "verification set",
        _pickles,
        _in_file,
        lambda case: case.data[:1] in (b"\x80", b"("),
        lambda name: [changes.near((b"q", b"(", b"e", b"]"))],
        ("metric_core/sources/pickled.py",),
        magics=(b"\x80", b"C", b"q", b"(", b"t"),
    ),
    Format(
        "list csv",
        _csvs,
        _in_file,
        lambda case: b"path" in case.data.split(b"\n")[0],
        lambda name: [changes.lines],
        ("metric_core/sources/listing.py", *TABLES),
        magics=(b",", b"\n", b'"'),
    ),
    Format(
        "list parquet",
        _lists,
        _in_file,
        is_parquet,
        lambda name: changes.PARQUET,
        ("metric_core/sources/listing.py", BOUNDS, *TABLES),
        magics=(b"PAR1", b"\x15"),
    ),
    Format(
        "pictures parquet",
        _hugging_face,
        _in_file,
        is_parquet,
        lambda name: changes.PARQUET,
        ("metric_core/sources/parquet.py", BOUNDS, *TABLES),
        magics=(b"PAR1", b"\x15", b"\x28\xb5\x2f\xfd"),
    ),
    Format(
        "splits",
        _split_tables,
        _splits,
        _is_text_table,
        _by_ending(csv=[changes.lines], parquet=changes.PARQUET),
        TABLES,
        magics=(b",", b"\n", b"PAR1"),
    ),
    Format(
        "pairs",
        lambda folder: {"pairs.txt": PAIRS},
        _pairs,
        lambda case: case.data.split(b"\n")[0].strip()[:1].isdigit(),
        lambda name: [changes.lines],
        ("metric_core/evaluate/pairs.py",),
        magics=(b"\t", b"\n"),
    ),
]
