"""The lesson's furniture: marks for the exercises, its figures, its settings and its playground."""
