"""How we know: cosine matrix, one-to-one matching, chance level, L0, FVU, firing, oracle."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from sae_lib.sae import SparseAutoencoder
from sae_lib.validation import (
    require_finite_matrix,
    require_non_negative,
    require_positive_int,
    require_same_shape,
)


def cosine_similarity_matrix(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Signed cosine of every row of a with every row of b: (n_a, d), (n_b, d) -> (n_a, n_b).

    cos(a_i, b_j) = a_i · b_j / (|a_i| |b_j|), from -1 (opposite) through 0 to 1 (the same).
    """
    require_finite_matrix("a", a)
    require_finite_matrix("b", b, n_columns=a.shape[1])
    a, b = a.detach(), b.detach().to(a.device)
    a = a / a.norm(dim=1, keepdim=True).clamp_min(1e-12)
    b = b / b.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return a @ b.T


class Matches(NamedTuple):
    """For each feature, its own latent and their signed cosine: both (n_features,).

    A feature left without a latent (fewer latents than features) has latent -1, cosine -1.
    """

    latent: np.ndarray
    cosine: np.ndarray


def match_features(cosines: torch.Tensor) -> Matches:
    """Give each feature one latent of its own, so that the cosines add up to the most.

    One-to-one, because a best cosine per feature would let one latent serve two features.
    Signed, because a direction and its opposite are different features here.
    cosines (d_sae, n_features). Hungarian method (scipy's linear_sum_assignment).
    """
    require_finite_matrix("cosines", cosines)
    cosines = cosines.detach().cpu().double().numpy()
    latents, features = linear_sum_assignment(cosines, maximize=True)
    latent = np.full(cosines.shape[1], -1)
    latent[features] = latents
    return Matches(latent, np.where(latent >= 0, cosines[latent, np.arange(len(latent))], -1.0))


def random_directions(n: int, d: int, *, seed: int = 0) -> torch.Tensor:
    """n directions of length 1, uniform on the sphere in d dimensions: (n, d)."""
    require_positive_int(n=n, d=d)
    directions = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return directions / directions.norm(dim=1, keepdim=True)


def chance_cosines(
    feature_directions: torch.Tensor, d_sae: int, *, n_draws: int = 200, seed: int = 0
) -> np.ndarray:
    """Matched cosines of dictionaries that learned nothing: (n_draws, n_features).

    Each draw is d_sae random unit directions, matched exactly as an SAE's are.
    """
    require_finite_matrix("feature_directions", feature_directions)
    require_positive_int(d_sae=d_sae, n_draws=n_draws)
    d_in = feature_directions.shape[1]
    draws = random_directions(n_draws * d_sae, d_in, seed=seed).view(n_draws, d_sae, d_in)
    truth = feature_directions.cpu()
    return np.stack([match_features(cosine_similarity_matrix(d, truth)).cosine for d in draws])


def l0(feature_acts: torch.Tensor) -> float:
    """How many entries of a row are not zero, on average over the rows."""
    require_finite_matrix("feature_acts", feature_acts)
    return (feature_acts != 0).sum(dim=1).float().mean().item()


def fvu(x: torch.Tensor, x_hat: torch.Tensor) -> float:
    """Fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean(x)|^2. 0 is perfect."""
    require_finite_matrix("x", x)
    require_finite_matrix("x_hat", x_hat)
    require_same_shape(x=x, x_hat=x_hat)
    return ((x - x_hat).square().sum() / (x - x.mean(dim=0)).square().sum()).item()


def mmcs(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean max cosine similarity: each row of a takes its best match in b; the mean of those.

    Not symmetric and not one-to-one. Sharkey et al. 2022; Cunningham et al. 2023, section 3.
    """
    return cosine_similarity_matrix(a, b).max(dim=1).values.mean().item()


def dead_latents(feature_acts: torch.Tensor) -> np.ndarray:
    """Which latents never fire on these activations: bool (d_sae,)."""
    require_finite_matrix("feature_acts", feature_acts)
    return (feature_acts == 0).all(dim=0).cpu().numpy()


def _require_matched_columns(feature_acts: torch.Tensor, matches: Matches) -> None:
    if matches.latent.max() >= feature_acts.shape[1]:
        raise ValueError(
            f"matches names latent {matches.latent.max()}, "
            f"but feature_acts has {feature_acts.shape[1]} columns."
        )


def group_latents(feature_acts: torch.Tensor, matches: Matches) -> dict[str, np.ndarray]:
    """Sort the latents into matched (in feature order), redundant and dead: their indices.

    matched    the one that a feature was given        dead   never fires on these activations
    redundant  fires, but no feature was left for it (often a twin of a matched one)
    """
    dead = dead_latents(feature_acts)
    _require_matched_columns(feature_acts, matches)
    matched = matches.latent[matches.latent >= 0]
    rest = np.setdiff1d(np.arange(len(dead)), matched)
    return {"matched": matched, "redundant": rest[~dead[rest]], "dead": rest[dead[rest]]}


def live_directions(
    sae: SparseAutoencoder, activations: torch.Tensor, min_rate: float = 1e-3
) -> torch.Tensor:
    """The decoder rows of latents above 0.01 on at least min_rate of the inputs: (n_live, d_in)."""
    require_finite_matrix("activations", activations)
    with torch.no_grad():
        rate = (sae.encode(activations) > 0.01).float().mean(dim=0)
    return sae.W_dec.detach()[rate >= min_rate]


def agreement(a: torch.Tensor, b: torch.Tensor, threshold: float = 0.99) -> float:
    """Share of directions with a counterpart in the other dictionary: 1 is full agreement.

    A row of a (n_a, d) has a counterpart if some row of b (n_b, d) is at cosine >= threshold;
    the share is taken in both dictionaries and averaged. Needs no ground truth.
    """
    cosines = cosine_similarity_matrix(a, b)
    shares = [(cosines.max(dim=i).values >= threshold).float().mean() for i in (0, 1)]
    return (sum(shares) / 2).item()


class Firing(NamedTuple):
    """For each feature, how its latent's firing agrees with it: all (n_features,).

    precision  P(feature on | latent fires)     recall  P(latent fires | feature on)
    scale      activation / strength, summed over the inputs that hold this feature alone and
               over all latents, so that twins count together; below 1 is shrinkage
    """

    precision: np.ndarray
    recall: np.ndarray
    scale: np.ndarray


def firing(
    strengths: torch.Tensor, feature_acts: torch.Tensor, matches: Matches, threshold: float = 0.01
) -> Firing:
    """Compare each feature with the activation of its matched latent, input by input.

    strengths (n, n_features): feature values times the length of their directions, which is
    how far each feature moved the activation. feature_acts (n, d_sae). Both count as on above
    `threshold`: 0.01 is a hundredth of the largest value, since below that the L1 saved by
    being silent is too small to matter to the training.
    """
    require_finite_matrix("strengths", strengths)
    require_finite_matrix("feature_acts", feature_acts)
    if len(strengths) != len(feature_acts):
        raise ValueError(
            f"strengths and feature_acts must have one row per input, "
            f"but {len(strengths)} and {len(feature_acts)} came."
        )
    if strengths.shape[1] != len(matches.latent):
        raise ValueError(
            f"matches is of {len(matches.latent)} features, "
            f"but strengths has {strengths.shape[1]} columns."
        )
    _require_matched_columns(feature_acts, matches)
    truth = strengths.detach().cpu().numpy()
    acts = feature_acts.detach().cpu().numpy()
    on, fires = truth > threshold, acts[:, matches.latent] > threshold
    fires[:, matches.latent < 0] = False
    alone = on & ((truth > 0).sum(axis=1, keepdims=True) == 1)
    both = (on & fires).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # never fires, never on: nan
        return Firing(
            both / fires.sum(axis=0),
            both / on.sum(axis=0),
            (acts.sum(axis=1)[:, None] * alone).sum(axis=0) / (truth * alone).sum(axis=0),
        )


def oracle_sae(feature_directions: torch.Tensor, l1_coefficient: float) -> SparseAutoencoder:
    """The SAE whose dictionary is the truth: what training can at best arrive at.

    W_dec = the unit feature directions, W_enc = W_decᵀ, b_enc = -λ/2. For directions that are
    orthogonal or opposite this is the exact minimum of the loss with that dictionary: the
    derivative of (h - v)^2 + λ h is zero at h = v - λ/2.
    """
    require_finite_matrix("feature_directions", feature_directions)
    require_non_negative(l1_coefficient=l1_coefficient)
    n_features, d_in = feature_directions.shape
    oracle = SparseAutoencoder(d_in, n_features).to(feature_directions.device)
    with torch.no_grad():
        oracle.W_dec.copy_(feature_directions)
        oracle.normalize_decoder_()
        oracle.W_enc.copy_(oracle.W_dec.T)
        oracle.b_enc.fill_(-l1_coefficient / 2)
    return oracle
