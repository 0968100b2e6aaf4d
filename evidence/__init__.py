"""Experiments too long for the notebooks, kept with their data. README.md says how to run them."""
