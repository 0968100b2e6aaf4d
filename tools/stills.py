"""Two pictures that take a training: the top of the lesson, and the top of the README."""

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from sae_lib import (
    FALLING_PRICE,
    SparseAutoencoder,
    ToyModel,
    cosine_similarity_matrix,
    fvu,
    l0,
    match_features,
    plots,
    recovered,
    train_sae,
    train_toy_model,
)
from sae_lib.lesson import figures


def _base_model() -> tuple[ToyModel, torch.Tensor]:
    base = ToyModel()
    train_toy_model(base)
    return base, base.encode(base.sample_features(50_000, seed=1)).detach()


def draw_first_minute() -> tuple[Figure, str]:
    """One SAE before training, trained without a price on activity, and trained on with one."""
    base, pool = _base_model()
    truth, sae = base.feature_directions, SparseAutoencoder(5, 20, seed=1)
    states, said = {}, "Sorted cosines of 20 latents with ten features: an SAE"
    for name, settings in {
        "before": {},
        "price off": {"l1_coefficient": 0.0, "n_steps": 3_000},
        "price on": {"l1_coefficient": 0.01, "n_steps": 1_000},
    }.items():
        if settings:
            train_sae(sae, pool, seed=1, **settings)
        with torch.no_grad():
            x_hat, latent_acts = sae(pool)
        L0, found = l0(latent_acts), recovered(sae.W_dec, truth)
        states[name] = (sae.W_dec.detach().clone(), fvu(pool, x_hat), L0)
        said += f"; {name}: {fvu(pool, x_hat):.1%} unexplained, L0 {L0:.1f}, {found} of 10 found"
    return figures.draw_strip(states, truth), f"{said}."


def draw_at_a_glance() -> Figure:
    """The README's picture: what the neurons show, and what the SAE's latents show."""
    base, pool = _base_model()
    sae = SparseAutoencoder(5, 20, seed=1)
    train_sae(sae, pool, seed=1, **FALLING_PRICE)
    cosines = cosine_similarity_matrix(sae.W_dec, base.feature_directions)
    own = match_features(cosines).latent
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    plots.plot_matrix(base.W.detach(), left, ylabel="neuron", xlabel="feature", numbers=0.15)
    left.set_title("5 neurons: many features each")
    plots.plot_matrix(
        cosines[own], right, ylabel="latent", xlabel="feature", yticks=own, numbers=0.8
    )
    right.set_title("10 latents: one feature each")
    return fig
