"""The only import of FAISS: all modules of ``index`` use this one, so there is one message if it is not installed."""

import re
import warnings
from typing import Any

from metric_core.errors import ConfigError

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # SWIG's types have no __module__, so Python 3.12 warns
        import faiss as _faiss
except ImportError as error:
    raise ConfigError(
        'the index needs FAISS, which is not installed: pip install "likeness-faces[cpu]" '
        '(or "likeness-faces[gpu]"; never both)'
    ) from error

MIN_VERSION = (1, 15)
"""Older releases return from ``remove_ids`` without removing for some families, and lack multi-bit RaBitQ fast-scan."""

if tuple(map(int, re.findall(r"\d+", _faiss.__version__)[:2])) < MIN_VERSION:
    raise ConfigError(
        f"FAISS {_faiss.__version__} is installed; the index needs 1.15 or later, because older releases leave deleted "
        'faces in some indexes and lack RaBitQ fast-scan: pip install --upgrade "likeness-faces[cpu]" '
        '(or "likeness-faces[gpu]"; never both)'
    )

faiss: Any = _faiss  # its stubs lack functions that the wheels have
