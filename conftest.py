"""For the notebooks as tests: no progress bars, and the comparison of tests/measured.py.

With MOVED_START=SEED in the environment, the tests' own trainings start a little elsewhere.
"""

import os

from nbval.plugin import IPyNbCell

from tests.measured import compare_outputs
from tests.run_alone import move_starts

os.environ["TQDM_DISABLE"] = "1"  # tqdm reads this when imported
IPyNbCell.compare_outputs = compare_outputs
if seed := os.environ.get("MOVED_START"):
    move_starts(int(seed))
