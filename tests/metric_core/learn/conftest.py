"""Puts this folder on the path, so that spawned ranks can import the modules in it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
