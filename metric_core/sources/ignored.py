"""What files are that a source holds and Likeness does not read, in words for messages."""

from metric_core.artefacts import keys
from metric_core.sources import naming
from metric_core.sources.found import LINKS, SPECIAL, UNLISTED

_CONVERT = "which is not read; convert the pictures to JPEG or PNG"
_RAW = f"a camera's raw format, {_CONVERT}"
_VIDEO = "video, which is not read; extract its frames as JPEG"
UNREAD = {
    **dict.fromkeys((".heic", ".heif", ".hif", ".heics"), f"HEIC, {_CONVERT}"),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"), _RAW),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm"), _VIDEO),
    **dict.fromkeys((".eps", ".ps", ".pdf", ".svg"), f"vector graphics, {_CONVERT}"),
    **dict.fromkeys((".jxl",), f"JPEG XL, {_CONVERT}"),
    **dict.fromkeys((".psd",), f"Photoshop, {_CONVERT}"),
    **dict.fromkeys((".npy", ".npz", ".mat", ".pkl"), "arrays, which are not read"),
    **dict.fromkeys((".zip", ".7z", ".rar"), "a packed folder; unpack it"),
    **dict.fromkeys((".csv",), "a list; to read the files it names, give it to --source by itself"),
    **dict.fromkeys((".tar", ".rec", ".parquet"), "shards; to read them, give them to --source by themselves"),
}
"""What files with these endings are, and what to do with them."""


def line(what: str, count: int) -> str:
    """The sentence on what a scan ignored, under the name by which it counts it."""
    special = {
        LINKS: f"skipped {count} symbolic links: in a tar only files and hard links are read",
        SPECIAL: f"skipped {count} named pipes, sockets or devices: not files, and not opened",
        UNLISTED: f"skipped {count} bytes of records that an .idx does not list; remove the .idx to read all records",
    }
    if what in special:
        return special[what]
    last = keys.ending("x" + what)
    if last in keys.IMAGE_ENDINGS:
        return f"skipped {count} pictures ending in {what}: beside a face of the same name, as masks are"
    if last in naming.SIDECARS and last != ".txt":
        return f"skipped {count} files ending in {what}: sidecars that belong to no picture"
    return f"skipped {count} files ending in {what}: {UNREAD.get(last, 'not pictures')}"
