"""How we know: cosine matrix, one-to-one matching, chance level, L0, FVU, firing, oracle."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from sae_lib.guards import finite
from sae_lib.sae import SparseAutoencoder, random_directions

# A latent fires when its activation is above this; a feature is on when it moved the model by
# more. One meaning for L0, dead latents, precision and recall. A hundredth of the largest value:
# below it the price saved by staying silent is too small to matter to the training.
FIRES = 0.01


def cosine_similarity_matrix(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Signed cosine of every row of a with every row of b: (n_a, d), (n_b, d) -> (n_a, n_b).

    cos(a_i, b_j) = a_i · b_j / (|a_i| |b_j|), from -1 (opposite) through 0 to 1 (the same).
    A row of zeros has cosine 0 with everything. The result is double, on the CPU.
    """
    a = finite("a", a, n_columns=0).cpu().double()
    b = finite("b", b, n_columns=a.shape[1]).cpu().double()
    return normalize(a, dim=1) @ normalize(b, dim=1).T


class Matches(NamedTuple):
    """For each feature, its own latent and their signed cosine: both (n_features,).

    A feature left without a latent (fewer latents than features) has latent -1, cosine nan.
    """

    latent: np.ndarray
    cosine: np.ndarray


def match_features(cosines: torch.Tensor) -> Matches:
    """Give each feature one latent of its own, so that the cosines add up to the most.

    One-to-one, because a best cosine per feature would let one latent serve two features.
    Signed, because a direction and its opposite are different features here.
    cosines (d_sae, n_features). Hungarian method (scipy's linear_sum_assignment).
    """
    cosines = finite("cosines", cosines, n_columns=0).cpu().numpy()
    n_features = cosines.shape[1]
    latent = np.full(n_features, -1)
    cosine = np.full(n_features, np.nan)
    for i, j in zip(*linear_sum_assignment(cosines, maximize=True), strict=True):
        latent[j] = i
        cosine[j] = cosines[i, j]
    return Matches(latent, cosine)


def recovered(W_dec: torch.Tensor, truth: torch.Tensor, at: float = 0.99) -> int:
    """How many features have a latent of their own at a signed cosine of `at` or more.

    W_dec (d_sae, d_in), truth (n_features, d_in). 0.99 is 8 degrees.
    """
    return int((match_features(cosine_similarity_matrix(W_dec, truth)).cosine >= at).sum())


def chance_cosines(
    feature_directions: torch.Tensor, d_sae: int, *, n_draws: int = 200, seed: int = 0
) -> np.ndarray:
    """Matched cosines of dictionaries that learned nothing: (n_draws, n_features).

    Each draw is d_sae random unit directions, matched exactly as an SAE's are.
    """
    draws = random_directions(n_draws * d_sae, feature_directions.shape[1], seed=seed)
    draws = draws.view(n_draws, d_sae, -1)
    cosines = [cosine_similarity_matrix(draw, feature_directions) for draw in draws]
    return np.stack([match_features(c).cosine for c in cosines])


def fires(latent_acts: torch.Tensor | np.ndarray) -> torch.Tensor | np.ndarray:
    """Which latents fire on which inputs: bool, of the kind and shape of latent_acts."""
    return abs(latent_acts) > FIRES


def l0(latent_acts: torch.Tensor) -> float:
    """How many latents fire on an input, on average over the inputs: latent_acts (..., d_sae)."""
    return fires(torch.as_tensor(latent_acts)).sum(dim=-1).float().mean().item()


def fvu(x: torch.Tensor, x_hat: torch.Tensor) -> float:
    """Fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean(x)|^2. 0 is perfect.

    x, x_hat (n, d_in). Raises ValueError if their shapes differ.
    """
    x, x_hat = (finite(name, t).double() for name, t in (("x", x), ("x_hat", x_hat)))
    if x.shape != x_hat.shape:
        raise ValueError(f"x has shape {tuple(x.shape)}, but x_hat has {tuple(x_hat.shape)}.")
    return ((x - x_hat).square().sum() / (x - x.mean(dim=0)).square().sum()).item()


def group_latents(latent_acts: torch.Tensor, matches: Matches) -> dict[str, np.ndarray]:
    """Sort the latents into matched (in feature order), redundant and dead: their indices.

    matched    the one that a feature was given        dead   never fires on these inputs
    redundant  fires, but no feature was left for it (often a twin of a matched one)
    """
    dead = ~fires(latent_acts).any(dim=0).cpu().numpy()
    matched = matches.latent[matches.latent >= 0]
    rest = np.setdiff1d(np.arange(len(dead)), matched)
    return {"matched": matched, "redundant": rest[~dead[rest]], "dead": rest[dead[rest]]}


def live_directions(sae: SparseAutoencoder, activations: torch.Tensor) -> torch.Tensor:
    """The decoder rows of the latents that fire on some of these inputs: (n_live, d_in)."""
    with torch.no_grad():
        return sae.W_dec.detach()[fires(sae.encode(activations)).any(dim=0)]


def agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    """Share of directions with a counterpart in the other dictionary: 1 is full agreement.

    A row of a (n_a, d) has a counterpart if some row of b (n_b, d) is at cosine 0.99 or more;
    the share is taken in both dictionaries and averaged. Needs no ground truth. 0 if either
    has no rows (no latent is live).
    """
    if len(a) == 0 or len(b) == 0:
        return 0.0
    cosines = cosine_similarity_matrix(a, b)
    shares = [(cosines.max(dim=i).values >= 0.99).float().mean() for i in (0, 1)]
    return (sum(shares) / 2).item()


class Firing(NamedTuple):
    """For each feature, how its latent's firing agrees with it: all (n_features,).

    precision  P(feature on | latent fires)     recall  P(latent fires | feature on)
    f1         their harmonic mean, 2 precision · recall / (precision + recall)
    scale      activation / strength, summed over the inputs that hold this feature alone and
               over all latents, so that twins count together; below 1 is shrinkage
    nan where there is nothing to count: a latent that never fires, a feature that is never on.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    scale: np.ndarray


def firing(strengths: torch.Tensor, latent_acts: torch.Tensor, matches: Matches) -> Firing:
    """Compare each feature with the activation of its matched latent, input by input.

    strengths (n, n_features): feature values times the length of their directions, which is
    how far each feature moved the activation. latent_acts (n, d_sae). Both count as on above
    FIRES.
    """
    truth = strengths.detach().float().cpu().numpy()
    acts = latent_acts.detach().float().cpu().numpy()
    is_on = fires(truth)
    fired = fires(acts[:, matches.latent]) & (matches.latent >= 0)
    both = (is_on & fired).sum(axis=0)
    alone = is_on & ((truth > 0).sum(axis=1, keepdims=True) == 1)
    total = acts.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Firing(
            precision=both / fired.sum(axis=0),
            recall=both / is_on.sum(axis=0),
            f1=2 * both / (fired.sum(axis=0) + is_on.sum(axis=0)),
            scale=(total * alone).sum(axis=0) / (truth * alone).sum(axis=0),
        )


def oracle_sae(feature_directions: torch.Tensor, l1_coefficient: float) -> SparseAutoencoder:
    """The SAE whose dictionary is the truth, read along its own directions.

    W_dec = the unit feature directions, W_enc = W_decᵀ, b_enc = -λ/2. For directions that are
    orthogonal or opposite this is the exact minimum of the loss with that dictionary: the
    derivative of (h - v)^2 + λ h is zero at h = v - λ/2. For crowded directions it is not:
    training may then end below it, with other directions.
    """
    n_features, d_in = feature_directions.shape
    oracle = SparseAutoencoder(d_in, n_features)
    with torch.no_grad():
        oracle.W_dec.copy_(feature_directions)
        oracle.normalize_decoder_()
        oracle.W_enc.copy_(oracle.W_dec.T)
        oracle.b_enc.fill_(-l1_coefficient / 2)
    return oracle.to(feature_directions)
