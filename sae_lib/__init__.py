"""Sparse autoencoders on a toy model whose features are known."""

from sae_lib.baselines import (
    ica_directions,
    kmeans_directions,
    neuron_directions,
    pca_directions,
)
from sae_lib.metrics import (
    Firing,
    Matches,
    agreement,
    chance_cosines,
    cosine_similarity_matrix,
    dead_latents,
    firing,
    fvu,
    group_latents,
    l0,
    live_directions,
    match_features,
    mmcs,
    oracle_sae,
    random_directions,
)
from sae_lib.sae import (
    SAELoss,
    SparseAutoencoder,
    TopKSparseAutoencoder,
    load_sae,
    sae_loss,
    save_sae,
)
from sae_lib.toy_model import ToyModel, train_toy_model, train_toy_models
from sae_lib.training import TrainingHistory, train_sae, train_saes

__all__ = [
    "Firing",
    "Matches",
    "SAELoss",
    "SparseAutoencoder",
    "TopKSparseAutoencoder",
    "ToyModel",
    "TrainingHistory",
    "agreement",
    "chance_cosines",
    "cosine_similarity_matrix",
    "dead_latents",
    "firing",
    "fvu",
    "group_latents",
    "ica_directions",
    "kmeans_directions",
    "l0",
    "live_directions",
    "load_sae",
    "match_features",
    "mmcs",
    "neuron_directions",
    "oracle_sae",
    "pca_directions",
    "random_directions",
    "sae_loss",
    "save_sae",
    "train_sae",
    "train_saes",
    "train_toy_model",
    "train_toy_models",
]
