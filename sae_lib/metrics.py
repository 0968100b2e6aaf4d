"""How we know: cosine matrix, one-to-one matching, chance level, L0, FVU, firing, oracle."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from sae_lib.checks import finite
from sae_lib.sae import SparseAutoencoder, random_directions
from sae_lib.toy_model import ToyModel

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
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    latent, cosine = np.full(cosines.shape[1], -1), np.full(cosines.shape[1], np.nan)
    latent[columns], cosine[columns] = rows, cosines[rows, columns]
    return Matches(latent, cosine)


def recovered(W_dec: torch.Tensor, ground_truth: torch.Tensor, at: float = 0.99) -> int:
    """How many features have a latent of their own at a signed cosine of `at` or more.

    W_dec (d_sae, d_in), ground_truth (n_features, d_in). 0.99 is 8 degrees. Directions alone:
    whether the latents fire with their features, `judge` says.
    """
    return int((match_features(cosine_similarity_matrix(W_dec, ground_truth)).cosine >= at).sum())


def chance_cosines(feature_directions: torch.Tensor, d_sae: int, n_draws: int = 200) -> np.ndarray:
    """Matched cosines of dictionaries that learned nothing: (n_draws, n_features).

    Each draw is d_sae random unit directions, matched exactly as an SAE's are.
    """
    draws = random_directions(n_draws * d_sae, feature_directions.shape[1]).split(d_sae)
    cosines = [cosine_similarity_matrix(draw, feature_directions) for draw in draws]
    return np.stack([match_features(c).cosine for c in cosines])


def fires(latent_acts: torch.Tensor | np.ndarray) -> torch.Tensor | np.ndarray:
    """Which latents fire on which inputs: bool, of the kind and shape of latent_acts."""
    return abs(latent_acts) > FIRES


def l0(latent_acts: torch.Tensor) -> float:
    """How many latents fire on an input, on average over the inputs: latent_acts (..., d_sae)."""
    return fires(torch.as_tensor(latent_acts)).sum(dim=-1).cpu().double().mean().item()


def fvu(x: torch.Tensor, x_hat: torch.Tensor) -> float:
    """Fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean(x)|^2.

    0 is perfect, 1 as bad as always answering with the mean; a bad start can lie above 1.
    x, x_hat (..., d_in): the leading axes count as one. In double, on the CPU.
    """
    if x.shape != x_hat.shape:
        got = tuple(x_hat.shape)
        raise ValueError(f"x_hat: expected the shape of x, {tuple(x.shape)}, got {got}.")
    x, x_hat = (t.detach().cpu().double().flatten(0, -2) for t in (x, x_hat))
    return ((x - x_hat).square().sum() / (x - x.mean(dim=0)).square().sum()).item()


@torch.no_grad()
def live_directions(sae: SparseAutoencoder, activations: torch.Tensor) -> torch.Tensor:
    """The decoder rows of the latents that fire on some of these inputs: (n_live, d_in).

    activations (..., d_in).
    """
    return sae.W_dec.detach()[fires(sae.encode(activations.flatten(0, -2))).any(dim=0)]


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
    """For each feature, how what fires for it agrees with it: all (n_features,).

    precision  P(feature on | fires)     recall  P(fires | feature on)
    scale      activation / strength, summed over the inputs that hold this feature alone;
               below 1 is shrinkage
    nan where there is nothing to count: nothing ever fires, or the feature is never on.
    """

    precision: torch.Tensor
    recall: torch.Tensor
    scale: torch.Tensor


def firing(strengths: torch.Tensor, acts: torch.Tensor) -> Firing:
    """Compare each feature with the activation of its latents, input by input.

    strengths (n, n_features): feature values times the length of their directions, which is
    how far each feature moved the activation. acts (n, n_features): what its latents, twins
    added up, make of that. Both count as on above FIRES.
    """
    is_on, fired = fires(strengths), fires(acts)
    both = (is_on & fired).sum(dim=0)
    alone = is_on & ((strengths > 0).sum(dim=1, keepdim=True) == 1)
    return Firing(
        precision=both / fired.sum(dim=0),
        recall=both / is_on.sum(dim=0),
        scale=(acts * alone).sum(dim=0) / (strengths * alone).sum(dim=0),
    )


class Judgement(NamedTuple):
    """What `judge` saw. For each feature (n_features,): the cosine with its own latent (nan if it
    has none), and whether it is found. Beside them the matched cosines of 200 random dictionaries
    as wide as the SAE (200, n_features)."""

    cosine: np.ndarray
    found: np.ndarray
    chance: np.ndarray


@torch.no_grad()
def judge(sae: SparseAutoencoder, toy_model: ToyModel, at: float = 0.99) -> Judgement:
    """Which features of this toy model has this SAE found?

    A feature is found if the direction of its own latent (`match_features`) is at a cosine of
    `at` or more, and the latents along it, taken together, fire with it: precision and recall of
    at least one half. A latent that points along a feature and never fires has found nothing.
    """
    ground_truth = toy_model.feature_directions
    cosines = cosine_similarity_matrix(sae.W_dec, ground_truth)
    features = toy_model.sample_features(20_000, seed=toy_model.seed + 1)
    acts = sae.encode(toy_model.encode(features).to(sae.W_dec)).cpu()
    fired = firing(features.cpu() * ground_truth.cpu().norm(dim=1), acts @ (cosines >= at).to(acts))
    cosine = match_features(cosines).cosine
    with_it = ((fired.precision >= 0.5) & (fired.recall >= 0.5)).numpy()
    chance = chance_cosines(ground_truth, len(sae.W_dec))
    return Judgement(cosine, (cosine >= at) & with_it, chance)


@torch.no_grad()
def oracle_sae(feature_directions: torch.Tensor, l1_coefficient: float) -> SparseAutoencoder:
    """The SAE whose dictionary is the ground truth, read along its own directions.

    W_dec = the unit feature directions, W_enc = W_decᵀ, b_enc = -λ/2. For directions that are
    orthogonal or opposite this is the exact minimum of the loss with that dictionary: the
    derivative of (h - v)^2 + λ h is zero at h = v - λ/2. For crowded directions it is not:
    training may then end below it, with other directions.
    """
    n_features, d_in = feature_directions.shape
    oracle = SparseAutoencoder(d_in, n_features)
    oracle.W_dec.copy_(feature_directions)
    oracle.normalize_decoder_()
    oracle.W_enc.copy_(oracle.W_dec.T)
    oracle.b_enc.fill_(-l1_coefficient / 2)
    return oracle.to(feature_directions)
