"""One version of an index: the handle that writes and reads its files, which are described in ``layout``.

Listing versions and choosing the live one is left to ``store``.
"""

# M: identities of a shard.

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import ids, manifest, migrate, partial
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import Corrupt, IndexBuildError, Missing
from metric_core.index.layout import (
    CHOICE,
    CODES,
    DECIDED,
    FILES,
    KIND,
    NAMES,
    REMEDY,
    SHARDS,
    VERSIONS,
    Content,
    Shard,
)
from metric_core.index.shard import Built, File

_RECEIPT = re.compile(r"shard-(\d+)\.json")


@dataclass(frozen=True)
class Version:
    """The handle of one version, finished or not. It is small and valid in every process."""

    index_uri: str
    """Folder or object-store address of the index."""
    id: str
    """Digest of the plan, so that a job that was killed continues its own version."""

    @classmethod
    def of(cls, index_uri: str, plan: Mapping[str, Any]) -> "Version":
        """The version that a plan in today's format describes."""
        return cls(index_uri, manifest.digest(migrate.hashed(KIND, "plan", plan))[:16])

    @property
    def uri(self) -> str:
        """The version's folder."""
        return storage.join(self.index_uri, VERSIONS, self.id)

    @property
    def finished(self) -> bool:
        """Whether it has its manifest."""
        return storage.exists(self.file(manifest.NAME))

    def file(self, name: str) -> str:
        """The address of one of its own files."""
        return storage.join(self.uri, name)

    def address(self, shard: Shard, ending: str = "*") -> str:
        """The address of one of a shard's files."""
        return storage.join(self.index_uri, SHARDS, f"{shard.digest}.{ending}")

    def place(self, content: Content, name: str) -> str:
        """The address of one of the files that its manifest lists."""
        return self.shared(name, content.files[name].sha256) if content.shared else self.file(name)

    def shared(self, name: str, sha256: str) -> str:
        """The address of a file that lies beside the versions, named by its content."""
        return storage.join(self.index_uri, FILES, f"{sha256[:32]}.{name}")

    def mask(self, content: Content, mask: Mapping[str, Any]) -> str:
        """The address of one of the content's masks."""
        return self.shared(mask["name"], mask["sha256"]) if content.shared else self.file(mask["name"])

    def read(self, name: str) -> bytes | None:
        """The bytes of one of its own files; None if there is none yet."""
        address = self.file(name)
        return storage.read_bytes(address) if storage.exists(address) else None

    def put(self, name: str, data: bytes) -> None:
        """Store one of its own files, unless it is there already. Whoever builds a version holds the index's lease."""
        if self.read(name) != data:
            storage.write_bytes(self.file(name), data)

    def share(self, name: str, data: bytes) -> File:
        """Store a file beside the versions, unless it is there already."""
        file = File(len(data), digest(data))
        address = self.shared(name, file.sha256)
        if not storage.exists(address) or digest(storage.read_bytes(address)) != file.sha256:
            storage.write_bytes(address, data)
        return file

    def decided(self) -> dict[str, str]:
        """The addresses of the files beside the versions that its choice names, by name; none while there is no sound
        choice."""
        try:
            found = json.loads(self.read(CHOICE) or b"{}")["choice"]
            return {name: self.shared(name, found[key]) for name, key in DECIDED.items()}
        except (ValueError, KeyError, TypeError):  # damaged, so it is decided again
            return {}

    def receipts(self) -> dict[int, Shard]:
        """The shards that have a sound receipt, by number; a build makes the others again."""
        found = {}
        for name in storage.names(self.uri):
            if number := _RECEIPT.fullmatch(name):
                with suppress(Corrupt):
                    if receipt := self.receipt(int(number[1])):
                        found[int(number[1])] = receipt[0]
        return found

    def listed(self, content: Content) -> dict[str, str]:
        """The addresses of all files that a content lists, and their sha256; not of its choice, which is in it."""
        own = ((name, file.sha256) for name, file in content.files.items() if name != CHOICE)
        found = {self.place(content, name): sha256 for name, sha256 in own}
        found |= {self.mask(content, mask): mask["sha256"] for mask in content.masks}
        for shard in content.shards:
            found |= {self.address(shard, ending): file.sha256 for ending, file in shard.files.items()}
        return found

    def made(self) -> set[str]:
        """The addresses of the files beside the versions that an unfinished build has made."""
        shards = self.receipts().values()
        return {self.address(shard, ending) for shard in shards for ending in shard.files} | {*self.decided().values()}

    def receipt(self, number: int) -> tuple[Shard, bytes] | None:
        """The receipt of the shard with this number, and the probes' neighbours in it; None if it must be built.

        Raises:
            Corrupt: they were damaged.
        """
        data, near = self.read(receipt_name(number)), self.read(near_name(number))
        if data is None or near is None:
            return None
        return self.receipt_of(number, data, near), near

    def receipt_of(self, number: int, data: bytes, near: bytes) -> Shard:
        """The shard of a receipt that was read, with the probes' neighbours in it. Raises Corrupt as ``receipt``."""
        try:
            found = json.loads(data)
            if found.pop("receipt") != manifest.digest(found):
                raise ValueError("it was edited")
            if found.pop("near") != digest(near):
                raise ValueError("another sha256 of the neighbours")
            return Shard.parse(found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt(f"{self.file(receipt_name(number))} is damaged ({error}); {REMEDY}") from error

    def put_files(self, built: Built, template: str) -> Shard:
        """Store a shard's files, unless they are there already; ``template`` is the sha256 of its template."""
        shard = Shard(built.digest, built.rows, built.people, built.files, template)
        for ending, path in built.paths.items():
            if not self._is_stored(shard, ending):
                storage.put_file(path, self.address(shard, ending))
        return shard

    def put_shard(self, number: int, built: Built, template: str, near: bytes) -> Shard:
        """Store a shard's files, the probes' neighbours in it, and then its receipt; what is there already is kept."""
        shard = self.put_files(built, template)
        self.put_receipt(number, shard, near)
        return shard

    def put_receipt(self, number: int, shard: Shard, near: bytes) -> None:
        """Store the probes' neighbours in a shard, and then its receipt, unless they are there already."""
        self.put(near_name(number), near)
        self.put(receipt_name(number), receipt_file(shard, near))

    def finish(self, content: Content, provenance: Mapping[str, Any]) -> Manifest:
        """Write the manifest; after that the version can be published.

        Raises:
            IndexBuildError: shards are of another template, or their rows are not those of the inputs.
        """
        if problems := content.problems():
            raise IndexBuildError(f"{self.uri}: {'; '.join(problems)}; build the index again")
        return manifest.write(self.uri, KIND, asdict(content), provenance)

    def manifest(self) -> Manifest:
        """The manifest. Raises Missing, Unfinished or Corrupt as ``manifest.read``."""
        return manifest.read(self.uri, KIND)

    def format(self) -> int:
        """The format number of its plan; 0 if it has none that can be read."""
        data = self.read(manifest.PLAN)
        try:
            return 0 if data is None else int(json.loads(data).get("format", 1))  # the first plans had no number
        except (ValueError, TypeError, AttributeError):
            return 0

    def plan_problem(self) -> str | None:
        """What is wrong with its plan, by whose digest it is named; None if nothing is.

        Raises:
            SchemaMismatch: a newer version of Likeness wrote it.
        """
        address, data = self.file(manifest.PLAN), self.read(manifest.PLAN)
        if data is None:
            return f"{address} is missing"
        try:
            found = json.loads(data)
            if found["kind"] == KIND:
                _, number = migrate.require_readable(found, address)
                if Version.of(self.index_uri, migrate.upgraded(KIND, "plan", found["plan"], number)) == self:
                    return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{address} is damaged ({error})"
        return f"{address} is not the plan that the version is named by"

    def content(self) -> Content:
        """The content of the manifest. Raises as ``manifest``."""
        return Content.parse(self.manifest().content)

    def faces(self) -> str | None:
        """The address of the Faces of its vectors when it was built, if known. Raises as ``manifest``."""
        return self.manifest().noted("faces")

    def sizes(self) -> dict[str, int]:
        """The size in bytes of every file of a finished version, by address. Raises as ``manifest``."""
        content = self.content()
        sizes = {self.place(content, name): file.bytes for name, file in content.files.items()}
        for shard in content.shards:
            sizes |= {self.address(shard, ending): file.bytes for ending, file in shard.files.items()}
        return sizes

    def require_whole(self) -> None:
        """Raises Corrupt if a file of a finished version is missing or not what it was; else as ``manifest``."""
        for address, size in self.sizes().items():  # the quick look first
            if not storage.exists(address) or storage.size(address) != size:
                raise Corrupt(f"{address} is missing or not the {size} bytes of its manifest; build the index again")
        content = self.content()
        for name in content.files:
            self.read_checked(content, name)
        for mask in content.masks:
            checked(self.mask(content, mask), mask["sha256"])
        for shard in content.shards:
            self.require_stored(shard)

    @contextmanager
    def local_files(self, shard: Shard, *, verify: bool = False) -> Iterator[dict[str, Path]]:
        """Local paths of a shard's files, by ending, whose digests were compared; open or map them inside the block.

        Raises:
            Missing, Corrupt: a file is not there, or not what it was; see ``storage.verified``.
        """
        with ExitStack() as held:
            yield {ending: held.enter_context(self.local_file(shard, ending, verify=verify)) for ending in shard.files}

    def local_file(self, shard: Shard, ending: str, *, verify: bool = False) -> AbstractContextManager[Path]:
        """As ``local_files``, for one of them."""
        return storage.verified(self.address(shard, ending), shard.files[ending].sha256, again=verify)

    def require_stored(self, shard: Shard) -> None:
        """Raises Missing or Corrupt if a file of a shard does not lie where it belongs, or is not what it was."""
        for ending in shard.files:
            self.require_file_stored(shard, ending)

    def require_file_stored(self, shard: Shard, ending: str, *, verify: bool = False) -> None:
        """As ``require_stored``, for one of them; ``verify``: hash it even if it has not changed since."""
        storage.require_stored(self.address(shard, ending), shard.files[ending].sha256, again=verify)

    def _is_stored(self, shard: Shard, ending: str) -> bool:
        try:
            self.require_file_stored(shard, ending)
        except (Missing, Corrupt):
            return False
        return True

    def read_checked(self, content: Content, name: str) -> bytes:
        """The bytes of one of the files that its manifest lists.

        Raises:
            Corrupt: it is missing or its digest is not the manifest's.
        """
        return checked(self.place(content, name), content.files[name].sha256)

    def read_names(self, content: Content, *, verify: bool = False) -> tuple[pa.Array, list[np.ndarray]]:
        """The distinct identities of the version, and for each shard int32 (M,), the positions in them of its own.

        Raises:
            Corrupt: as ``read_checked``.
        """
        with storage.verified(self.place(content, NAMES), content.files[NAMES].sha256, again=verify) as path:
            column = pa.ipc.open_file(pa.memory_map(str(path))).read_all()["identity"]
            names = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # the latter copies
        with storage.verified(self.place(content, CODES), content.files[CODES].sha256, again=verify) as path:
            code_N = np.load(path, mmap_mode="r", allow_pickle=False)
        return names, np.split(code_N, np.cumsum([shard.people for shard in content.shards])[:-1])

    def read_masks(self, content: Content) -> list[np.ndarray]:
        """For each shard int64 (any number,), sorted: its faces that must not be found. Raises Corrupt as
        ``read_checked``."""
        masked: list[np.ndarray] = [ids.NONE] * len(content.shards)
        for mask in content.masks:
            address = self.mask(content, mask)
            data = checked(address, mask["sha256"])
            with partial.parsed(address, REMEDY):
                found = pq.read_table(pa.BufferReader(data))["face_id"].to_numpy()
            # Without a number, as in the first versions with masks, it is about all shards.
            for number in range(min(mask.get("shards", len(masked)), len(masked))):
                masked[number] = np.union1d(masked[number], found)
        return masked


def checked(address: str, sha256: str) -> bytes:
    """The bytes at an address. Raises Corrupt if there are none, or others than those with this sha256."""
    data = storage.read_bytes(address) if storage.exists(address) else None
    if data is None or digest(data) != sha256:
        what = "is missing" if data is None else "has another sha256 than its manifest says"
        raise Corrupt(f"{address} {what}; {REMEDY}")
    return data


def choice_file(choice: Mapping[str, Any]) -> bytes:
    """The file ``choice.json``, by which an interrupted build continues."""
    return manifest.canonical({"choice": choice, "digest": manifest.digest(choice)})


def receipt_file(shard: Shard, near: bytes) -> bytes:
    """The receipt of a shard, with the probes' neighbours in it."""
    receipt = asdict(shard) | {"near": digest(near)}
    return manifest.canonical(receipt | {"receipt": manifest.digest(receipt)})


def named(shards: list[pa.Array]) -> tuple[bytes, bytes]:
    """The files ``names.arrow`` and ``codes.npy`` of some shards, from the distinct identities of each."""
    names = pa.chunked_array([pa.array([], pa.string()), *shards]).unique()
    names = names.take(pc.sort_indices(names))
    codes = [np.empty(0, np.int32), *(pc.index_in(own, names).to_numpy() for own in shards)]
    return names_files(names, np.concatenate(codes).astype(np.int32))


def names_files(names: pa.Array, code_M: np.ndarray) -> tuple[bytes, bytes]:
    """The same, from the distinct identities in byte order and int32 (M,), the places in them of each shard's."""
    return ipc(pa.table({"identity": names})), _npy(code_M)


def digest(data: bytes) -> str:
    """sha256, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def ipc(table: pa.Table) -> bytes:
    """A table as a file of Arrow IPC."""
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()


def _npy(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()


def receipt_name(number: int) -> str:
    """The file of the receipt of the shard with this number."""
    return f"shard-{number:03d}.json"


def near_name(number: int) -> str:
    """The file of the probes' neighbours in the shard with this number."""
    return f"shard-{number:03d}.arrow"
