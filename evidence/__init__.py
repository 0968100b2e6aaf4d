"""Experiments too long for the notebook, kept with their data. `python -m experiments.run`."""
