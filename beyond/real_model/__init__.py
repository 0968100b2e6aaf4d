"""The road out: an SAE on a real transformer. Needs requirements-next.txt; the lesson does not."""
