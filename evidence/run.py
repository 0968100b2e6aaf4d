"""Make experiments again, and store their results: `python -m evidence.run NAME ...`.

What each is about stands in README.md, how long it takes in tables.md. One thread.
"""

import os

os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported

import argparse
import warnings

import torch
from sklearn.exceptions import ConvergenceWarning

from evidence import baselines, crowded, easy, failures
from evidence.common import run

EXPERIMENTS = {"map": crowded.crowded_map} | {
    experiment.__name__: experiment
    for experiment in (
        *(easy.switch, easy.splice, easy.widths, easy.start, easy.linear),
        *(baselines.baselines, baselines.reading, crowded.phase, crowded.cost),
        *(failures.implied, failures.absorption, failures.joint, failures.matryoshka),
        *(failures.rare, failures.l0_too_low),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", choices=EXPERIMENTS, nargs="+", metavar="NAME")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # float32 cannot reach that tolerance
    for name in parser.parse_args().names:
        run(name, EXPERIMENTS[name])
        print(f"{name}: done", flush=True)


if __name__ == "__main__":
    main()
