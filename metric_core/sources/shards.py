"""Sources that are one or many files with the images' bytes in them: which files, in which order, and their readers."""

import re
from functools import partial
from pathlib import PurePosixPath

from metric_core import storage
from metric_core.artefacts import keys
from metric_core.errors import ConfigError, DataError, Missing
from metric_core.sources import ignored, parquet, recordio, webdataset
from metric_core.sources.found import Scan, Source

ENDINGS = (".rec", ".tar", ".parquet")
"""In lower case, as ``PACKED``; a file's own may be in any."""
PACKED = (".tgz", ".tbz", ".tbz2", ".txz", ".tzst", *(f".tar.{how}" for how in ("gz", "bz2", "xz", "zst", "lz4", "z")))
SPECIAL = re.compile(r"[*?\[{]")


def scan(root: str, files: list[str], level: int | None = None, unlabelled: bool = False) -> Source:
    """The faces in shards of one format; the corpus is named after their folder.

    Args:
        root: the folder.
        files: their paths below it.
        level: in tars, which folder names the person, see ``naming``.
        unlabelled: whether pictures may show nobody who is named.

    Raises:
        DataError: their format is unknown, they are of several formats, or they are compressed tars.
        ConfigError: a level is given for another format, or unlabelled for one that names everybody.
    """
    for file in files:
        if file.lower().endswith(PACKED):
            raise webdataset.compressed_error(storage.join(root, file), PurePosixPath(file).suffix)
        if not file.lower().endswith(ENDINGS):
            what = ignored.UNREAD.get(keys.ending(file).lower())
            what = f": it is {what}" if what else ""
            raise DataError(f"{storage.join(root, file)} is none of {', '.join(ENDINGS)}, .csv and .bin{what}")
    endings = sorted({PurePosixPath(file).suffix.lower() for file in files})
    if len(endings) > 1:
        raise DataError(f"{root} holds {' and '.join(endings)} files: which are the source? Give --source one kind")
    if endings != [".tar"]:
        refuse_level(level, storage.join(root, files[0]))
    if endings == [".rec"]:
        refuse_unlabelled(unlabelled, storage.join(root, files[0]))
    found = [_shard(root, file, len(files), level, unlabelled) for file in files]
    return Source(root, PurePosixPath(root).name or "faces", found, unlabelled=unlabelled)


def refuse_level(level: int | None, address: str) -> None:
    """Raise ConfigError if a level of folders is given for a source that names people itself."""
    if level is not None:
        raise ConfigError(f"person_level is {level}, but {address} names people itself; leave the option out")


def refuse_unlabelled(unlabelled: bool, address: str) -> None:
    """Raise ConfigError if faces may have no name in a source whose format names everybody."""
    if unlabelled:
        raise ConfigError(f"unlabelled is set, but {address} names everybody; leave the option out")


def inside(folder: str) -> list[str]:
    """The shards directly in a folder, in byte order; none in an image tree.

    Raises:
        DataError: there are folders too, which may be an image tree.
    """
    names, folders = storage.files_and_folders(folder)
    files = [name for name in names if name.lower().endswith(ENDINGS + PACKED) and not name.startswith(".")]
    folders = [name for name in folders if not name.startswith(".")]
    if files and folders:
        raise DataError(
            f"{folder} holds {files[0]} and the folder {folders[0]}: which is the source? Give --source "
            f"{folder}/{files[0]}, '{folder}/*{PurePosixPath(files[0]).suffix}', or the folder of pictures"
        )
    return files


def is_pattern(address: str) -> bool:
    """Whether an address is a pattern for several: it contains ``*``, ``?``, ``[ab]``, ``{000..012}`` or ``{a,b}``."""
    return SPECIAL.search(address) is not None


def matching(pattern: str) -> tuple[str, list[str]]:
    """The folder above the pattern's first special character, and the files in it that match, in byte order.

    Raises:
        Missing: nothing matches.
    """
    root = SPECIAL.split(pattern, maxsplit=1)[0].rpartition("/")[0]
    found = {file for one in _braces(pattern) for file in (storage.glob(one) if is_pattern(one) else [one])}
    if not found:
        raise Missing(f"{pattern}: no file matches; give --source a folder, a file, or a pattern of shards")
    return root, [file.removeprefix(root + "/") for file in sorted(found)]


def _braces(pattern: str) -> list[str]:
    """Expand ``{000..012}`` and ``{a,b}`` as a shell does."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    if span := re.fullmatch(r"(\d+)\.\.(\d+)", found[1]):
        words = [str(n).zfill(len(span[1])) for n in range(int(span[1]), int(span[2]) + 1)]
    else:
        words = found[1].split(",")
    return [out for word in words for out in _braces(pattern[: found.start()] + word + pattern[found.end() :])]


def _shard(root: str, file: str, count: int, level: int | None, unlabelled: bool) -> Scan:
    ending = keys.ending(file).lower()
    if ending == ".tar":
        return partial(webdataset.faces, root, file, level=level, unlabelled=unlabelled)
    if ending == ".parquet":
        return partial(parquet.faces, root, file, unlabelled=unlabelled)
    # The keys of a single train.rec are the bare record numbers; those of several files have the file's name in front.
    return partial(recordio.faces, root, file, f"{PurePosixPath(file).with_suffix('')}/" if count > 1 else "")
