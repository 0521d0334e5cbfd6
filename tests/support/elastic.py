"""``likeness train`` on a cluster whose nodes are all this machine, looking for room for more workers every second."""

import sys

from workflows import cli
from workflows.train import fit
from workflows.train.training import Training

if __name__ == "__main__":
    fit.RESIZE_EVERY_S = 1.0
    Training.check_cluster = lambda self: None  # type: ignore[method-assign]  # every node can open the SQLite store
    sys.exit(cli.main())
