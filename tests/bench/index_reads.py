"""Bytes that a command and its descendants read of some files, as strace sees them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from index_process import Failed, run

CALLS = "openat,read,pread64,readv,preadv,preadv2,mmap,close,sendfile,copy_file_range"
_READ = re.compile(r"^(?:read|pread64|readv|preadv2?)\(\d+<([^>]*)>.* = (\d+)$")
_SENT = re.compile(r"^(?:sendfile\(\d+<[^>]*>, |copy_file_range\()\d+<([^>]*)>.* = (\d+)$")
_MAPPED = re.compile(r"^mmap\([^,]*, (\d+), [^,]*, [^,]*, \d+<([^>]*)>.* = 0x")


def there() -> bool:
    """Whether strace is installed and may trace here."""
    if not shutil.which("strace"):
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


def of_index(corpus: str, *options: str) -> dict[str, int]:
    """Bytes read of each part file of a corpus while ``likeness index`` builds an index of it; a mapped range counts as
    read. The index is thrown away.

    Raises:
        Failed: the command failed, or strace did not see all of its processes.
    """
    with tempfile.TemporaryDirectory(prefix="likeness-bench-") as folder:
        index, log = f"{folder}/index", Path(folder, "log")
        log.mkdir()
        # One file per thread, so that no call is split over two lines.
        strace = ["strace", "-ff", "--seccomp-bpf", "-qq", "-y", "-s", "0", "-e", f"trace={CALLS}", "-o", f"{log}/of"]
        run([*strace, sys.executable, "-m", "workflows.cli", "index", "--embeddings", corpus, "--out", index, *options])
        read = {str(path): 0 for path in Path(corpus).glob("part-*.parquet")}
        for path in log.iterdir():
            for line in path.read_text(errors="replace").splitlines():
                name, count = _parsed(line)
                if name in read:
                    read[name] += count
        # The driver reads a sample, Ray's workers everything.
        if short := [name for name, count in read.items() if count < Path(name).stat().st_size]:
            raise Failed(f"strace saw less than the whole of {len(short)} parts read: it did not follow Ray's workers")
        return read


def _parsed(line: str) -> tuple[str, int]:
    if (read := _READ.match(line) or _SENT.match(line)) is not None:
        return read[1], int(read[2])
    if (mapped := _MAPPED.match(line)) is not None:
        return mapped[2], int(mapped[1])
    return "", 0
