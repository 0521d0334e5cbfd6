"""The one import of FAISS: everything in ``index`` takes it from here, so that its absence has one explanation."""

import warnings
from typing import Any

from metric_core.errors import ConfigError

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # SWIG's types have no __module__, which 3.12 deplores
        import faiss as _faiss
except ImportError as error:
    raise ConfigError(
        'the index needs FAISS, which is not installed: pip install "likeness-faces[cpu]" '
        '(or "likeness-faces[gpu]"; never both)'
    ) from error

faiss: Any = _faiss  # its stubs lag behind what the wheels offer
