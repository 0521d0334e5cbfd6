"""``likeness catalogue``: a corpus of face pictures to Faces, the list that the other jobs read. No image is copied."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from metric_core import manifest, storage
from metric_core.data import catalogue
from metric_core.data.faces import rows_digest
from metric_core.errors import ConfigError, DataError
from workflows.parts import provenance
from workflows.parts.console import say


@dataclass(frozen=True)
class CatalogueConfig:
    """List the faces of a corpus."""

    source: str
    """A folder with one folder a person (any nesting above it); a .csv or .parquet list with columns path,identity
    and, if you have them, key,view,split,landmarks; an MXNet train.rec; a .tar, in WebDataset's layout or with one
    folder a person; a .parquet with columns image and identity or label; a folder of .rec, .tar or .parquet files; a
    pattern, 'shards-{000..127}.tar'; or InsightFace's lfw.bin, for evaluate --pairs lfw.bin."""
    out: str
    """Folder or object-store address of the Faces artefact to write."""
    namespace: str | None = None
    """Prefix of the face_ids; default: the source's own name."""
    splits: str | None = None
    """CSV with columns identity,split: which people belong to which split."""
    valid_fraction: float = 0.0
    """Share of people that a seeded draw puts into the split valid; the others go into train. 0: no splits."""
    seed: int = 0
    """Of that draw."""

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.valid_fraction < 1:
            problems.append(f"valid_fraction is {self.valid_fraction}; it must be 0 or more and below 1")
        if self.splits and self.valid_fraction:
            problems.append("splits and valid_fraction are both given; choose one")
        if problems:
            raise ConfigError.of(problems)


def run(config: CatalogueConfig) -> dict[str, Any]:
    """Write the catalogue.

    Returns:
        {faces, rows, identities, splits: {name: {rows, identities}}}
    """
    source_address, out = storage.absolute(config.source), storage.absolute(config.out)
    source = catalogue.scan(source_address)
    found = list(_counted(source.faces))
    for ending, count in sorted(source.ignored.items()):
        say(f"passed over {count} files ending in {ending}: not pictures")
    if not found:
        raise DataError(f"{source_address} holds no pictures; expected one folder a person with pictures in it")
    namespace = config.namespace or source.name
    table, salts = catalogue.to_table(found, namespace, _split_of(config, sorted({f.identity for f in found})))
    content = {
        "root": source.root,
        "namespace": namespace,
        "salts": salts,
        "rows_digest": rows_digest(table),
        **catalogue.summary(table),
    }
    done = manifest.begin(out, "faces", {k: content[k] for k in ("root", "namespace", "rows_digest")})
    if done:
        say(f"{out} is finished already; nothing to do")
    else:
        catalogue.write_rows(out, table)
        manifest.write(out, "faces", content, provenance.record())
    return {"faces": out, **catalogue.summary(table)}


def _counted(faces: Iterator[Any]) -> Iterator[Any]:
    """The same faces, with a line now and then, since how many there are is not known beforehand."""
    for number, face in enumerate(faces, start=1):
        yield face
        if number % 100_000 == 0:
            say(f"{number:,} pictures found")


def _split_of(config: CatalogueConfig, people: list[str]) -> dict[str, str]:
    if config.splits:
        given = catalogue.read_splits(storage.absolute(config.splits))
        unlisted = [p for p in people if p not in given]
        if len(unlisted) == len(people):
            raise DataError(f"{config.splits} names none of the source's {len(people)} people ({people[0]}, …)")
        if unlisted:
            say(f"{len(unlisted)} people are not in {config.splits} and get no split ({unlisted[0]}, …)")
        return given
    if config.valid_fraction:
        shares = {"train": 1 - config.valid_fraction, "valid": config.valid_fraction}
        return catalogue.seeded_splits(people, shares, config.seed)
    return {}
