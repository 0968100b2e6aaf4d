"""Which section of the notebook makes which name. Written by tools/sync_notebook.py."""

MADE_IN: dict[str, str] = {}
