"""Run experiments again, and write their results to experiments/data/.

    python -m experiments.run map widths      these; all of them take 40 minutes
    python -m experiments.tables              print the tables of what is stored, in a second

Seconds on one thread of a two-core server CPU:

    map        10, 15, 20 features in 5 dimensions, six prices, three k           460
    spares     which latents the seeds do not share                                70
    objective  training against the objective: is the truth the cheapest code?     60
    widths     10 in 5, from five latents to eighty, the lesson's recipe          350
    trap       ten latents: what frees the runs that stay incomplete              230
    twins      second latents on one feature, at higher prices                    130
    loudness   twins depend on how loud the encoder starts                         70
    implied    B is on only when A is: absorption, composition                    150
    family     a parent with two children: splitting                               60
    reading    which features are on: F1 of encoders and of sparse coding         240
    rivals     sparse coding, k-means, ICA                                        280
    encoding   time to encode a million inputs                                      5
    linear     no ReLU                                                             70
    frozen     a random decoder that is never trained                              80
    flattery   a score on |cos|                                                     5

Base models: seeds 300, 301, 302. SAEs: seeds 0 to 15, on each of them. Every row of a file is one
setting on one base model, with a result for each SAE seed. No setting was chosen on these seeds,
except the learning rate of the L1 SAE of 100 in 30 (0.01 was too low).
"""

import os

os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported

import argparse
import time
import warnings

import torch
from sklearn.exceptions import ConvergenceWarning

from experiments import crowded, dependent, easy
from experiments.common import save

EXPERIMENTS = {
    "map": crowded.crowded_map,
    "spares": crowded.spares,
    "objective": crowded.objective,
    "widths": easy.widths,
    "trap": easy.trap,
    "twins": easy.twins,
    "loudness": easy.loudness,
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
    warnings.simplefilter("ignore", ConvergenceWarning)  # float32 cannot reach sklearn's tolerance
    for name in parser.parse_args().names:
        started = time.process_time()
        settings, rows = EXPERIMENTS[name]()
        save(name, settings, rows, started)


if __name__ == "__main__":
    main()
