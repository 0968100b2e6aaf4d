"""For the notebooks as tests: no progress bars, and the comparison of tests/measured.py."""

import os

from nbval.plugin import IPyNbCell

from tests.measured import compare_outputs

os.environ["TQDM_DISABLE"] = "1"  # tqdm reads this when imported
IPyNbCell.compare_outputs = compare_outputs
