"""The only package that opens addresses: local paths and anything fsspec knows (s3://, gs://, memory://).

Writes are atomic: a reader sees the old object, the new one, or none. Two of them are conditional; leases and
publishing are built on these. Large files with a known digest are checked and cached by ``verified``. What the bytes
mean is left to the callers.
"""

from metric_core.storage.addresses import absolute, is_local, join, resolve, without_secrets
from metric_core.storage.durable import private
from metric_core.storage.listing import (
    content_tag,
    exists,
    files_and_folders,
    glob,
    is_file,
    is_folder,
    link_out,
    names,
    require_file,
    size,
    walk,
)
from metric_core.storage.reading import (
    FILE_ERRORS,
    Range,
    ReadResult,
    is_storage_error,
    local_copy,
    open_read,
    read_bytes,
    read_many,
    read_text,
    sha256,
)
from metric_core.storage.verified import Cache, forget, require_stored, verified
from metric_core.storage.writing import (
    change,
    create_if_absent,
    make_private,
    new_file,
    put_file,
    remove,
    remove_tree,
    remove_unfinished,
    replace_if_match,
    write_bytes,
)

__all__ = [
    "FILE_ERRORS",
    "Cache",
    "Range",
    "ReadResult",
    "absolute",
    "change",
    "content_tag",
    "create_if_absent",
    "exists",
    "files_and_folders",
    "forget",
    "glob",
    "is_file",
    "is_folder",
    "is_local",
    "is_storage_error",
    "join",
    "link_out",
    "local_copy",
    "make_private",
    "names",
    "new_file",
    "open_read",
    "private",
    "put_file",
    "read_bytes",
    "read_many",
    "read_text",
    "remove",
    "remove_tree",
    "remove_unfinished",
    "replace_if_match",
    "require_file",
    "require_stored",
    "resolve",
    "sha256",
    "size",
    "verified",
    "walk",
    "without_secrets",
    "write_bytes",
]
