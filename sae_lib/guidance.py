"""Cells run out of order: a missing name says which section makes it."""

from IPython import get_ipython

MADE_IN = {
    "section 1": ("plots", "SEED", "DEVICE", "N_STEPS", "L1_COEFFICIENT", "RECOVERED"),
    "section 2": ("toy_model", "W"),
    "section 3": ("features", "activations", "true_l0", "n_on"),
    "section 4": ("SparseAutoencoder", "SAELoss", "sae_loss"),
    "section 5": (
        *("train_sae", "sae", "history", "x_hat", "feature_acts", "cosine_similarity_matrix"),
        *("match_features", "n_recovered", "count_recovered", "truth", "no_penalty"),
    ),
    "section 6": ("cosines", "matches", "chance", "verdict"),
    "section 7": ("strengths", "fired"),
    "section 8, 'Break it 3'": ("lambdas", "swept", "sweep"),
    "section 8, 'Break it 5'": (
        *("TopKSparseAutoencoder", "packed", "map_lambdas", "map_ks", "crowded", "crowded_pools"),
        *("trained", "columns", "recovery_map", "share_recovered"),
    ),
    "section 8, 'Break it 6'": ("blind",),
}


def explain_missing_names() -> None:
    """From now on, let NameErrors in this notebook name the section to run first."""
    shell = get_ipython()
    if shell is None:  # not in a notebook
        return

    def explain(shell, error_type, error, traceback, tb_offset=None):
        for section, names in MADE_IN.items():
            if error.name in names:
                error.args = (f"{error}. It is made in {section}: run the cells there first.",)
        shell.showtraceback((error_type, error, traceback), tb_offset=tb_offset)

    shell.set_custom_exc((NameError,), explain)
