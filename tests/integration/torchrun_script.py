"""What torchrun starts in ``test_strategies.py``: one rank of two nodes."""

import signal
import sys
from pathlib import Path

from tests.integration.ranked_fits import fit_rank

if __name__ == "__main__":
    signal.alarm(140)  # torchrun's workers are in sessions of their own and would outlive it
    fit_rank(Path(sys.argv[1]), 2, nodes=2)
