"""Sparse autoencoders on a toy model whose features are known."""
# ruff: noqa: I001

from sae_lib.many import train_saes, train_toy_models
from sae_lib.metrics import (
    agreement, chance_cosines, cosine_similarity_matrix, fires, firing, fvu, judge, l0,
    live_directions, match_features, oracle_sae, recovered,
)  # fmt: skip
from sae_lib.sae import (
    SAELoss, SparseAutoencoder, TopKSparseAutoencoder, random_directions, sae_loss,
)  # fmt: skip
from sae_lib.saving import load_sae, save_sae
from sae_lib.toy_model import ToyModel, train_toy_model
from sae_lib.training import FALLING_PRICE, TrainingHistory, train_sae

# fmt: off
__all__ = [
    "FALLING_PRICE", "SAELoss", "SparseAutoencoder", "TopKSparseAutoencoder", "ToyModel",
    "TrainingHistory", "agreement", "chance_cosines", "cosine_similarity_matrix", "fires",
    "firing", "fvu", "judge", "l0", "live_directions", "load_sae", "match_features", "oracle_sae",
    "random_directions", "recovered", "sae_loss", "save_sae", "train_sae", "train_saes",
    "train_toy_model", "train_toy_models",
]
