"""For all tests here: no progress bars, one thread, and no torchvision."""

import os
import sys

os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported

# Nothing here needs torchvision. Where some other package brought one that does not fit the
# installed torch (a CPU build, say), transformers and all that import it would not load.
sys.modules.setdefault("torchvision", None)

import torch  # noqa: E402

torch.set_num_threads(1)  # tensors this small are slower when shared out
