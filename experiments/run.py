"""doc"""

import os

os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported

import argparse
import time

import torch

from experiments import crowded, dependent, easy
from experiments.common import save

EXPERIMENTS = {
    "map": crowded.crowded_map,
    "spares": crowded.spares,
    "objective": crowded.objective,
    "widths": easy.widths,
    "trap": easy.trap,
    "twins": easy.twins,
    "implied": dependent.implied,
    "family": dependent.family,
    "reading": crowded.reading,
    "rivals": crowded.rivals,
    "encoding": crowded.encoding,
    "linear": easy.linear,
    "frozen": easy.frozen,
    "flattery": easy.flattery,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", choices=EXPERIMENTS, nargs="+")
    torch.set_num_threads(1)
    for name in parser.parse_args().names:
        started = time.process_time()
        settings, rows = EXPERIMENTS[name]()
        save(name, settings, rows, started)


if __name__ == "__main__":
    main()
