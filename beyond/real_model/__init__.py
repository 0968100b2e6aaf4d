"""An SAE on a real transformer. Needs beyond/requirements.txt; the lesson does not."""
