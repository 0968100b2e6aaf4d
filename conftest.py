"""Progress bars off, also where the notebook alone is tested: tqdm reads this when imported."""

import os

os.environ["TQDM_DISABLE"] = "1"
