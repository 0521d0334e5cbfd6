"""Where the tests find data that is not in the repository."""

import os
from pathlib import Path

DATA = Path(os.environ.get("LIKENESS_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()
"""Real faces and other data; tests that need them skip if they are missing."""
