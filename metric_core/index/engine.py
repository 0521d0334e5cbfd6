"""The only import of FAISS: all modules of ``index`` use this one, so there is one message if it is not installed."""

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

faiss: Any = _faiss  # its stubs lack functions that the wheels have
