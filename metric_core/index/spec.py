"""The description of an index: which code stores the vectors, and how many bytes that takes in memory and on disk.

A description is a FAISS factory string of one of a few families. The metric is the inner product of unit vectors, which
is their cosine. Which description suits a corpus, and how many lists a search scans, is decided elsewhere.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from metric_core.index.factory import FORMS, Code, Parsed, Refine, nearest, parse, reasons_against
from metric_core.options import Options, out_of_range

PROBES = 10_000
"""Probes of the search whose memory ``resident_bytes`` predicts."""

RESULTS = 10
"""Results per probe of that search."""

_RESULT_BYTES = 8 + 4 + 4
"""A result: face_id, score, code of the identity."""

_LEAST_WORKSPACE, _MOST_WORKSPACE = 512 << 10, 2 << 20
_BASE_BYTES, _REUSED_BYTES, _REUSED_ROWS = 13_000_000, 5_500_000, 1_000_000
"""What a search adds to its process beside what it reads: blocks of queries, candidates and vectors, pages of the
libraries' code, and gaps in the heap. The heap that opening an index has left is used again, so it is less for many
rows: 13.6 MB measured for 100,000, 10.4 for 200,000, 10.7 for 300,000 and 7.0 to 7.4 for a million, on two threads."""

_ROUNDED = 1.6
"""FAISS keeps a fast-scan list's codes in a power of two of bytes (``AlignedTable``): 1.37 and 1.42 times what the file
has for a million rows in 4,096 and 2,048 lists; reading them leaves gaps in the heap beside, up to 6 MB where the codes
are 32."""

_SHOWN_NAME_BYTES = 4 + 9
"""An identity's name in mapped pages: offset and text."""

_ROW_BYTES = 8 + 4
"""face_id and shard-local code of the identity."""

_NAME_BYTES = 4 + 12
"""An identity's name on disk: offset and, on average, text."""

_BLOCK = 32
"""Rows that fast-scan packs together: the last block of a list is padded (FAISS, ``BlockInvertedLists``)."""

_TRAIN_PER_LIST = 64
"""Training vectors per list; FAISS warns below 39 and ignores more than 256 (``ClusteringParameters``)."""

_MIN_PER_LIST = 39

_CODEBOOK = {"PQ": 16, "PQx8": 256}
"""Entries of a codebook of 4 and of 8 bits, trained like a list's centroid."""

_RANGE_ROWS = 16_384
"""Vectors that the range of each component of SQ8 is taken from; what lies outside is clipped to it."""


@dataclass(frozen=True)
class IndexSpec(Options):
    """An index to build."""

    dim: int
    """Components per vector."""
    factory: str
    """FAISS factory string, one of ``factory.FORMS``."""

    def problems(self) -> list[str]:
        problems = out_of_range(self, dim="[1, inf)")
        parsed = parse(self.factory)
        if parsed is None:
            near = nearest(self.factory, self.dim)
            return [*problems, f"factory is {self.factory!r}; expected {', '.join(FORMS)}; the nearest is {near!r}"]
        reasons = reasons_against(parsed, self.dim)
        return problems + [f"factory is {self.factory!r}; {reason}" for reason in reasons]

    @cached_property
    def _parts(self) -> Parsed:
        parsed = parse(self.factory)
        assert parsed, "the constructor checks the factory string"
        return parsed

    @property
    def nlist(self) -> int | None:
        """Inverted lists; None for an index that is scanned whole."""
        return self._parts.nlist

    @property
    def code(self) -> Code:
        """How FAISS stores a vector."""
        return self._parts.code

    @property
    def M(self) -> int | None:
        """Sub-quantisers per vector, of 4 bits each if the code is PQ and of 8 if it is PQx8; None if it is neither."""
        return self._parts.M

    @property
    def bits(self) -> int | None:
        """Bits per component; None unless the code is RaBitQ."""
        return self._parts.bits

    @property
    def refine(self) -> Refine | None:
        """How the vectors are stored that the best candidates are compared with again; None: they are not."""
        return self._parts.refine

    @property
    def fast_scan(self) -> bool:
        """Whether lists are packed in blocks of 32 rows.

        FAISS 1.15 copies such lists into memory even when it maps the file, which then takes twice its size: open these
        without ``IO_FLAG_MMAP_IFC``.
        """
        return self.code in ("PQ", "RaBitQ")

    @property
    def codes_apart(self) -> bool:
        """Whether a search maps a file of codes alone, since their ids would take more memory than they do."""
        return self.code == "PQx8" and self.refine is not None

    @property
    def lossless(self) -> bool:
        """Whether vectors are stored as float32, so that scores are exact."""
        return self.code == "Flat"

    @property
    def coarse_factory(self) -> str:
        """What ``faiss.index_factory`` makes the index from that is trained and added to with ``add_core``.

        That function leaves the lists of fast-scan classes wrong, so these are converted afterwards from the plain
        class of the same code. The vectors for refining are not FAISS's.
        """
        if self.code == "PQ":
            return f"IVF{self.nlist},PQ{self.M}x4"
        if self.code == "RaBitQ":
            return f"IVF{self.nlist},RaBitQ{self.bits if self.bits != 1 else ''}"
        return self.factory.split(",Refine")[0]

    @property
    def train_rows(self) -> int:
        """Vectors to sample for training."""
        rows = _TRAIN_PER_LIST * (self.nlist or 0)
        if self.code == "PQ":
            rows = max(rows, 256 * _CODEBOOK["PQ"])
        elif self.code == "PQx8":
            rows = max(rows, _TRAIN_PER_LIST * _CODEBOOK["PQx8"])
        return max(rows, _RANGE_ROWS) if "SQ8" in (self.code, self.refine) else rows

    @property
    def min_train_rows(self) -> int:
        """Fewer training vectors than this make FAISS warn that the centroids are unreliable."""
        codebook = _CODEBOOK.get(self.code, 0)
        ranges = 1 if "SQ8" in (self.code, self.refine) else 0
        return max(_MIN_PER_LIST * max(self.nlist or 0, codebook), ranges)

    @property
    def code_bytes(self) -> int:
        """Bytes per row in FAISS, without its id."""
        if self.M is not None:
            return self.M // 2 if self.code == "PQ" else self.M
        if self.code == "RaBitQ":
            # Sign bits and two float32; with more bits, a third, the extra bits and two float32 of their own
            # (FAISS, impl/RaBitQUtils.h: SignBitFactors, SignBitFactorsWithError, ExtraBitsFactors).
            assert self.bits
            signs = math.ceil(self.dim / 8)
            return signs + 8 if self.bits == 1 else signs + 12 + math.ceil(self.dim * (self.bits - 1) / 8) + 8
        return _vector_bytes(self.code, self.dim)

    @property
    def record_bytes(self) -> int:
        """Bytes per row of the file that candidates are refined from: vector, the scale of 8 bits, face_id, identity; 0
        without it."""
        scale = 4 if self.refine == "SQ8" else 0
        return 0 if self.refine is None else _vector_bytes(self.refine, self.dim) + scale + _ROW_BYTES

    @property
    def trained_bytes(self) -> int:
        """Centroids, codebooks and ranges."""
        codebooks = 4 * _CODEBOOK.get(self.code, 0) * self.dim
        ranges = 2 * 4 * self.dim if self.code == "SQ8" else 0
        return 4 * self.dim * (self.nlist or 0) + codebooks + ranges

    def list_bytes(self, rows: int, shards: int = 1) -> int:
        """Codes and ids of the rows in FAISS, with the padding expected where lists are filled at random.

        An index without lists has no ids: a row's is its position.
        """
        if self.nlist is None:
            return rows * self.code_bytes
        lists = self.nlist * shards
        padded = float(rows)
        if self.fast_scan and rows:
            filled = lists * -math.expm1(-rows / lists)
            padded = filled * max(_BLOCK, rows / filled + (_BLOCK - 1) / 2)
        return math.ceil(padded * self.code_bytes) + rows * 8 + lists * 8

    def resident_bytes(self, rows: int, people: int, shards: int, *, mapped: bool = False, views: bool = False) -> int:
        """How much the resident memory of a process grows that opens the index and searches 10,000 probes.

        Counted are pages that such a search touches, mapped ones too: all lists, and each row's face_id and identity
        unless the records for refining hold them, which are read by ``pread`` where there is no room to map them.
        Centroids are counted once where shards can share them: product codes are scanned without them. Batches must
        be small enough for the workspace: FAISS has a table of about 8 x ``dim`` bytes for each query and list that
        it scans in RaBitQ codes (1.1 KB measured at 128 components).

        Args:
            rows: vectors in the index.
            people: identities in the index.
            shards: files that the rows are spread over.
            mapped: whether the records for refining are mapped, too.
            views: whether rows have a view.
        """
        codes = self.list_bytes(rows, shards) - rows * 8 if self.fast_scan else 0
        pages = self.list_bytes(rows, shards) + round((_ROUNDED - 1) * codes)
        if self.codes_apart:
            pages -= rows * 8
        pages += self.trained_bytes * (1 if self.code == "PQ" and self.refine is not None else shards)
        if self.refine is None:
            pages += rows * (_ROW_BYTES + views)
        elif mapped:
            pages += rows * self.record_bytes
        names = 4 * _local_names(rows, people, shards) + people * _SHOWN_NAME_BYTES
        probes = PROBES * (4 * self.dim + RESULTS * _RESULT_BYTES)
        base = _BASE_BYTES - round(_REUSED_BYTES * min(1, rows / _REUSED_ROWS))
        return pages + names + probes + base + self.workspace_bytes(rows)

    def workspace_bytes(self, rows: int) -> int:
        """Size of the blocks that a search of so many rows works in: in proportion to the index, within limits."""
        return min(_MOST_WORKSPACE, max(_LEAST_WORKSPACE, rows * (self.code_bytes + 8) // 32))

    @property
    def scan_bytes(self) -> int:
        """FAISS's tables for each query of a scan: 16 float32 and 16 bytes per product code (2.5 KB measured for 32);
        RaBitQ has more, for each list."""
        return 80 * self.M if self.M and self.fast_scan else 20 << 10

    def disk_bytes(self, rows: int, people: int, shards: int, *, views: bool = False) -> int:
        """Bytes of the index's files; arguments as of ``resident_bytes``.

        The trained part is in every shard and in the template.
        """
        names = _local_names(rows, people, shards) * (_NAME_BYTES + 4) + people * _NAME_BYTES
        per_row = _ROW_BYTES + views + self.record_bytes + (self.code_bytes if self.codes_apart else 0)
        return self.list_bytes(rows, shards) + (shards + 1) * self.trained_bytes + rows * per_row + names


def _vector_bytes(code: str, dim: int) -> int:
    return {"Flat": 4, "SQfp16": 2, "SQ8": 1}[code] * dim


def _local_names(rows: int, people: int, shards: int) -> int:
    """Names in the shards' own tables: at most all people in every shard, and no more than there are rows."""
    return min(rows, people * shards)


def shown(count: int) -> str:
    """Bytes for people: rounded up to three digits in a binary unit."""
    unit = max(0, min(4, (count.bit_length() - 1) // 10))
    scaled = count / (1 << (10 * unit))
    digits = max(0, 2 - int(math.log10(scaled))) if unit and scaled >= 1 else 0
    return f"{math.ceil(scaled * 10**digits) / 10**digits:g}{['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}"
