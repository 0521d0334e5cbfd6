"""The files of one version without erased faces: names, probes, neighbours, masks and receipts. Its shards were written
again before, and its manifest is replaced afterwards.
"""

# Q: probes, T: nearest neighbours of a probe, W: all that are kept.

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts.erasing import Target
from metric_core.errors import Corrupt, IndexBuildError
from metric_core.index import layout, masks, truth, tuning
from metric_core.index import version as versions
from metric_core.index.erase_common import Changes, Search, hit
from metric_core.index.erase_lists import Changed
from metric_core.index.layout import Content, Shard
from metric_core.index.search import Index
from metric_core.index.shard import File
from metric_core.index.truth import Probes, Truth
from metric_core.index.version import Version

WHY = "erased"
"""Why a mask hides faces until they are removed."""
_FEW = 0.01
"""Share of the probes that may be affected by erasures before recall is measured again, which takes longer than writing
the shards of one person."""


@dataclass
class Rewriting:
    """Writes the files of one version after the other."""

    search: Search
    changes: Changes

    @property
    def target(self) -> Target:
        """What is erased."""
        return self.search.target

    def content(
        self, version: Version, before: Content, new: Mapping[str, Shard], changed: Mapping[str, Changed]
    ) -> Content:
        """Write a version's files without the faces; returns the content that lists them, which may be as before.

        Args:
            version: a finished version.
            before: of its manifest.
            new: what takes the place of shards, by their digest.
            changed: what takes the place of templates, by their sha256.

        Raises:
            Corrupt: a file that must be read is missing or damaged.
            IndexBuildError: the rows do not add up.
        """
        content = before
        content = replace(content, shards=[new.get(shard.digest, shard) for shard in content.shards])
        content = self._masks(version, content)
        files = {name: version.read_checked(before, name) for name in (layout.PROBES, layout.TRUTH)}
        probes, known = Probes.parse(files[layout.PROBES]), Truth.parse(files[layout.TRUTH])
        kept_Q = ~hit(probes.to_table(), self.target)
        self._receipts(version, content, kept_Q)
        if content.masks == before.masks and content.shards == before.shards and not self._concerns(probes, known):
            return before
        files = self._own_files(version, before, content, probes, known, kept_Q, changed)
        if not content.shared:
            names = [name for name in before.files if name not in (*files, layout.CHOICE)]
            files |= {name: version.read_checked(before, name) for name in names}
        listed = {name: version.share(name, data) for name, data in sorted(files.items())}
        same = {name: file for name, file in before.files.items() if name not in (*listed, layout.CHOICE)}
        content = replace(
            content,
            template=listed[layout.TEMPLATE].sha256 if layout.TEMPLATE in listed else before.template,
            files=dict(sorted((same | listed).items())),
            people=len(pa.ipc.open_file(files[layout.NAMES]).read_all()) if layout.NAMES in files else before.people,
            choice=_renamed(before.choice, before.files, listed),
            shared=True,
        )
        if problems := content.problems():
            raise IndexBuildError(f"{version.uri}: {'; '.join(problems)}; build the index again")
        if layout.TRUTH in files:
            content = self._measured(version, content, self._affected(known))
        self._choice(version, before, content)
        return content

    def _concerns(self, probes: Probes, known: Truth) -> bool:
        """Whether probes or their neighbours are erased. Where faces were added, the truth has fewer probes."""
        gone = self.target.has(known.best.face_id_QW.ravel()).any()
        return bool(gone or any(hit(one.to_table(), self.target).any() for one in (probes, known.probes)))

    def _masks(self, version: Version, content: Content) -> Content:
        """The content with masks that do not list erased faces."""
        kept = []
        for mask in content.masks:
            data = versions.checked(version.mask(content, mask), mask["sha256"])
            listed = pq.read_table(pa.BufferReader(data))["face_id"].to_numpy()
            gone = self.target.has(listed)
            if mask.get("why") == WHY and gone.all():
                continue
            if gone.any():
                data = masks.file(listed[~gone])
                mask = mask | {"rows": mask["rows"] - int(gone.sum()), "sha256": versions.digest(data)}
            if not gone.all():
                version.share(mask["name"], data)
                kept.append(mask)
        return replace(content, masks=kept)

    def _receipts(self, version: Version, content: Content, kept_Q: np.ndarray) -> None:
        """Write the receipts of a version again: those of the new shards, and the neighbours without erased faces."""
        for number, shard in enumerate(content.shards):
            own = [version.file(name(number)) for name in (versions.receipt_name, versions.near_name)]
            was = [version.read(name(number)) for name in (versions.receipt_name, versions.near_name)]
            now = self._receipt(version, number, shard, was, kept_Q)
            if now == was:
                continue
            storage.remove(own[0])  # not to be there with neighbours that it is not about
            if now[1] is None:  # missing or damaged, which ``check`` tells and the job that built it mends
                storage.remove(own[1])
            else:
                version.put_receipt(number, shard, now[1])
            for address, before, after in zip(own, was, now):
                self.changes.note(
                    address, *(None if data is None else versions.digest(data) for data in (before, after))
                )

    def _receipt(
        self, version: Version, number: int, shard: Shard, was: list[bytes | None], kept_Q: np.ndarray
    ) -> list[bytes | None]:
        """What a receipt and the probes' neighbours in its shard become: the neighbours without erased faces, None if
        they are missing or damaged. Without a receipt, they were written by a run that was killed."""
        receipt, near = was
        try:
            if near is None:
                return [None, None]
            held = None if receipt is None else version.receipt_of(number, receipt, near)
            best = truth.parse_best(near)
        except (Corrupt, ValueError, KeyError, OSError, pa.ArrowException):
            return [None, None]
        whole = len(best.face_id_QW) != len(kept_Q) or kept_Q.all()
        if not whole or self.target.has(best.face_id_QW.ravel()).any():
            best = best if whole else truth.taken(best, kept_Q)
            near = versions.ipc(truth.best_table(truth.without(best, self.target.face_id_M)))
        elif held == shard:
            return was
        return [versions.receipt_file(shard, near), near]

    def _own_files(
        self,
        version: Version,
        before: Content,
        content: Content,
        probes: Probes,
        known: Truth,
        kept_Q: np.ndarray,
        changed: Mapping[str, Changed],
    ) -> dict[str, bytes]:
        """The files of a version that change, by name."""
        files: dict[str, bytes] = {}
        if content.shards != before.shards:
            files |= self._names(version, before)
        if self._concerns(probes, known):
            left_Q = ~hit(known.probes.to_table(), self.target)
            best = truth.without(truth.taken(known.best, left_Q), self.target.face_id_M)
            files[layout.PROBES] = versions.ipc(probes.take(kept_Q).to_table())
            files[layout.TRUTH] = versions.ipc(Truth(known.probes.take(left_Q), best).to_table())
        if (change := changed.get(before.template)) is not None:
            files[layout.TEMPLATE] = change.template
        return files

    def _names(self, version: Version, before: Content) -> dict[str, bytes]:
        """The identities that have rows left, and the positions among them of each shard's."""
        names, code_of = version.read_names(before)
        left = [self.search.gone(version, shard).left_P for shard in before.shards]
        code_M = np.concatenate([np.empty(0, np.int32), *(code_P[left_P] for code_P, left_P in zip(code_of, left))])
        used = np.zeros(len(names), bool)
        used[code_M] = True
        new = (np.cumsum(used) - 1).astype(np.int32)
        return dict(zip((layout.NAMES, layout.CODES), versions.names_files(names.filter(pa.array(used)), new[code_M])))

    def _affected(self, known: Truth) -> int:
        """Probes that are erased, or one of whose nearest neighbours is."""
        near_QT = known.best.face_id_QW[:, : tuning.NEIGHBOURS]
        gone_Q = self.target.has(near_QT.ravel()).reshape(near_QT.shape).any(axis=1)
        return int((gone_Q | hit(known.probes.to_table(), self.target)).sum())

    def _measured(self, version: Version, content: Content, affected: int) -> Content:
        """The content with what the remaining probes find of their neighbours now. For few of them, recall stays as it
        was measured: it cannot be off by more than their share. The curve of the tuning always stays."""
        known = Truth.parse(version.read_checked(content, layout.TRUTH))
        affected += content.recall.get(layout.AFFECTED, 0)
        counts = {"probes": len(known.probes), "counted": int(known.counted_Q.sum()), layout.AFFECTED: affected}
        if affected <= _FEW * len(known.probes) or not len(known.probes):
            return replace(content, recall=content.recall | counts)
        point = asdict(tuning.measure(Index.load(version, content), known, content.nprobe, content.depth))
        return replace(content, recall=content.recall | point | counts | {layout.AFFECTED: 0})

    def _choice(self, version: Version, before: Content, content: Content) -> None:
        """The file by which a build continues names the new probes and the new template."""
        data = version.read(layout.CHOICE)
        if data is None or before.choice == content.choice:
            return
        new = versions.choice_file(content.choice)
        version.put(layout.CHOICE, new)
        self.changes.note(version.file(layout.CHOICE), versions.digest(data), versions.digest(new))


def _renamed(choice: Mapping[str, Any], before: Mapping[str, File], now: Mapping[str, File]) -> dict[str, Any]:
    """The choice with the digests of the new probes and the new template."""
    new = dict(choice)
    for name, key in layout.DECIDED.items():
        if name in now and choice.get(key) == before[name].sha256:
            new[key] = now[name].sha256
    return new
