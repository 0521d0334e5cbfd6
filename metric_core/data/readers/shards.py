"""Sources that are one or many files with the images' bytes in them: which files, in what order, read by whom."""

from functools import partial
from pathlib import PurePosixPath

from metric_core import storage
from metric_core.data.readers import recordio
from metric_core.data.readers.found import Scan, Source
from metric_core.errors import DataError

ENDINGS = (".rec",)


def scan(root: str, files: list[str]) -> Source:
    """The faces in shards of one format; the corpus is named after the folder they lie in.

    Raises:
        DataError: they are of several formats.
    """
    endings = {PurePosixPath(file).suffix for file in files}
    if len(endings) > 1:
        raise DataError(f"{root} holds {' and '.join(sorted(endings))} files: which are the source? Give --source one")
    return Source(root, PurePosixPath(root).name or "faces", [_shard(root, file, len(files)) for file in files])


def inside(folder: str) -> list[str]:
    """The shards directly in a folder, in byte order; none in an image tree.

    Raises:
        DataError: there are folders too, which may be an image tree.
    """
    names, folders = storage.files_and_folders(folder)
    files = [name for name in names if name.endswith(ENDINGS) and not name.startswith(".")]
    folders = [name for name in folders if not name.startswith(".")]
    if files and folders:
        raise DataError(
            f"{folder} holds {files[0]} and the folder {folders[0]}: which is the source? Give --source "
            f"{folder}/{files[0]}, or the folder of pictures"
        )
    return files


def _shard(root: str, file: str, count: int) -> Scan:
    # One train.rec has the bare record numbers as keys; several need telling apart.
    return partial(recordio.faces, root, file, f"{PurePosixPath(file).with_suffix('')}/" if count > 1 else "")
