"""How SAEs fail: features that imply one another, rare features, a k that is wrong."""

import copy
from collections.abc import Iterator

import torch
from torch.nn.functional import normalize

from evidence.common import (
    CROWDED,
    data,
    mean_agreement,
    orthogonal_models,
    scores,
    toy_models,
    trained,
)
from sae_lib import FALLING_PRICE, SAELoss, SparseAutoencoder, ToyModel, sae_loss
from sae_lib.metrics import cosine_similarity_matrix, fires, fvu, live_directions, match_features


class Related(ToyModel):
    """Features that depend on one another, as `relate` says. fixed: what is on has the value 1."""

    fixed = False

    def sample_features(self, n: int, *, seed: int | torch.Generator = 0) -> torch.Tensor:
        rng = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        is_on = torch.rand(n, self.W.shape[-1], generator=rng) >= self.sparsity
        self.relate(is_on, rng)
        return is_on * (1.0 if self.fixed else torch.rand(is_on.shape, generator=rng))

    def relate(self, is_on: torch.Tensor, rng: torch.Generator) -> None:
        raise NotImplementedError


def changed(models: dict[int, ToyModel], **settings) -> dict[int, ToyModel]:
    """The same toy models, on inputs of another kind."""
    models = copy.deepcopy(models)
    for model in models.values():
        vars(model).update(settings)
    return models


class Implied(Related):
    """Feature 0 (A) is on twice as often as others; feature 1 (B) on half of those inputs only."""

    def relate(self, is_on: torch.Tensor, rng: torch.Generator) -> None:
        a, b = torch.rand(2, len(is_on), generator=rng)
        is_on[:, 0] = a < 2 * (1 - self.sparsity)
        is_on[:, 1] = is_on[:, 0] & (b < 0.5)


def a_and_b(sae, model, features, x) -> dict:
    """On which inputs A's latent fires, and where B's points.

    C is any other feature but A's opposite, which leaves nothing of A in the activation.
    """
    directions = normalize(model.feature_directions, dim=1)
    owner = match_features(cosine_similarity_matrix(sae.W_dec, directions)).latent
    a, b = directions[:2]
    is_on, others = features > 0, (features[:, 2:] > 0).sum(dim=1)
    opposite = (is_on & (directions @ a < -0.9)).any(dim=1)
    inputs = {"A alone": ~is_on[:, 1] & (others == 0), "A and B": is_on[:, 1] & (others == 0)}
    inputs |= {"A and an independent C": ~is_on[:, 1] & (others == 1) & ~opposite}
    fired = fires(sae.encode(x)[:, owner[0]]).float()
    row = {f"A's fires on {name}": fired[of & is_on[:, 0]].mean() for name, of in inputs.items()}
    between = cosine_similarity_matrix(sae.W_dec[owner[1:2]], (a + b)[None])
    return row | {"cos(B's, A+B)": between.squeeze()}


def absorption() -> Iterator[dict]:
    """10 in 5, sparsity 0.9, B on for half of the inputs with A and never else; what is on is 1."""
    models = changed(toy_models(10, 5, 0.9, Implied), fixed=True)
    settings = {"λ falling to 0.001": {"l1": 0.001} | FALLING_PRICE}
    settings |= {"λ = 0.03": {"l1": 0.03} | CROWDED}
    for setting, recipe in settings.items():
        yield from scores(models, trained(models, 20, **recipe), a_and_b, setting=setting)


class Families(Related):
    """Features 0 to 3 are parents; 4 + i and 8 + i the children of parent i.

    A parent is on alone, with one child or with the other, equally often.
    """

    fixed = True

    def relate(self, is_on: torch.Tensor, rng: torch.Generator) -> None:
        which = torch.randint(3, (len(is_on), 4), generator=rng)
        parents = is_on[:, :4].clone()
        is_on[:, 4:8], is_on[:, 8:] = parents & (which == 1), parents & (which == 2)


class Matryoshka(SparseAutoencoder):
    """The first 4, the first 8 and all of the latents must each rebuild the input alone.

    loss = sum over these prefixes of |x - x_hat|^2, and the price of all latents, once.
    Early latents so cannot leave to later ones what is often on. Bussmann et al. 2025,
    arXiv 2503.17547 (there with BatchTopK instead of a price).
    """

    prefixes = (4, 8)

    def loss(self, x: torch.Tensor, l1_coefficient: float) -> SAELoss:
        x_hat, acts = self(x)
        total, error, price = sae_loss(x, x_hat, acts, l1_coefficient)
        for n in self.prefixes:
            part = acts[..., :n] @ self.W_dec[..., :n, :] + self.b_dec
            total = total + (part - x).square().sum(dim=-1).mean()
        return SAELoss(total, error, price)


def parents(sae, model, features, x) -> dict:
    """The latent nearest to each parent: where it points, and whether it fires with a child."""
    cosines = cosine_similarity_matrix(sae.W_dec, model.feature_directions)
    owner = match_features(cosines[:, :4]).latent
    fired, is_on = fires(sae.encode(x))[:, owner], features > 0
    with_child = is_on[:, 4:8] | is_on[:, 8:]
    row = {"cos(parent's, parent)": cosines[owner, range(4)].mean()}
    row["parent's fires alone"] = fired[is_on[:, :4] & ~with_child].float().mean()
    return row | {"parent's fires with a child": fired[with_child].float().mean()}


def matryoshka() -> Iterator[dict]:
    """Four parents with two children each, 12 features at right angles in 12 dimensions.

    Parents are on in a tenth of the inputs: alone, with one child or with the other, equally
    often. Values 1, λ = 0.03, 24 latents.
    """
    models = orthogonal_models(12, 0.9, Families)
    for kind in (SparseAutoencoder, Matryoshka):
        saes = trained(models, 24, kind=kind, l1=0.03, **CROWDED)
        yield from scores(models, saes, parents, kind=kind.__name__)


class Rare(Related):
    """Feature i is on with a probability in proportion to (i + 1)^-exponent, 1 - sparsity on
    average; where that asks for more than 1, the rest goes to the others."""

    exponent = 0.0

    def probabilities(self) -> torch.Tensor:
        p = torch.arange(1, self.W.shape[-1] + 1) ** -self.exponent
        for _ in range(20):
            p = (p * (1 - self.sparsity) / p.mean()).clamp(max=1.0)
        return p

    def relate(self, is_on: torch.Tensor, rng: torch.Generator) -> None:
        is_on[:] = torch.rand(is_on.shape, generator=rng) < self.probabilities()


def halves(sae, model, features, x) -> dict:
    """How many of the 50 commonest and of the 50 rarest features are found."""
    cosines = cosine_similarity_matrix(sae.W_dec, model.feature_directions)
    found = match_features(cosines).cosine >= 0.99
    return {"of the 50 commonest": found[:50].sum(), "of the 50 rarest": found[50:].sum()}


def rare() -> Iterator[dict]:
    """100 in 30, five on at a time; feature i with a probability in proportion to i^-exponent.

    TopK, k = 5, 200 latents, 50,000 activations; 2 SAE seeds. The toy models were trained on
    equally frequent features, so that every one of them has its direction. For exponent 0 see
    baselines.
    """
    for exponent, n_steps in ((0.5, 2_000), (1.0, 2_000), (1.5, 2_000), (1.5, 8_000)):
        models = changed(toy_models(100, 30, 0.95, Rare), exponent=exponent)
        recipe = CROWDED | {"n_steps": n_steps, "n": 50_000}
        saes = trained(models, 200, k=5, seeds=range(2), **recipe)
        about = {"exponent": exponent, "n_steps": n_steps}
        for row in scores(models, saes, halves, **about):
            rarest = models[row["toy_model"]].probabilities().min()
            yield row | {"p of the rarest": rarest}


def mean_abs_cosine(directions: torch.Tensor) -> float:
    """Mean |cosine| of two different rows: a measure without a ground truth, arXiv 2508.16560."""
    cosines = cosine_similarity_matrix(directions, directions).abs()
    n = len(cosines)
    return ((cosines.sum() - cosines.trace()) / (n * (n - 1))).item()


@torch.no_grad()
def gaussian(model: ToyModel, n: int, seed: int) -> torch.Tensor:
    """Noise (n, n_hidden) with the mean and the covariance of the model's activations."""
    x = data(model, 20_000, seed)[1].double()
    spread = torch.linalg.cholesky(x.T.cov() + 1e-9 * torch.eye(x.shape[1]))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, x.shape[1], generator=generator, dtype=torch.float64)
    return (x.mean(dim=0) + noise @ spread.T).float()


def choosing_k() -> Iterator[dict]:
    """TopK with 40 latents at each k: what shows without a ground truth, and what is found.

    20 features at right angles in 20 dimensions, 5 on at a time; and 15 in 5, sparsity 0.95.
    null: the same SAE, 4 seeds, on Gaussian noise with the mean and covariance of the activations.
    """
    cases = {
        "20 at right angles": (orthogonal_models(20, 0.75), (2, 3, 4, 5, 8, 10)),
        "15 in 5": (toy_models(15, 5, 0.95), (1, 2, 3, 4)),
    }
    for case, (models, ks) in cases.items():
        for k in ks:
            saes = trained(models, 40, k=k, **CROWDED)
            nulls = trained(models, 40, k=k, seeds=range(4), pool_of=gaussian, **CROWDED)
            for row in scores(models, saes, case=case, k=k):
                m = row["toy_model"]
                x = data(models[m], 10_000, m + 1_000)[1]
                live = [live_directions(sae, x) for sae in saes[m]]
                row["mean abs cosine"] = [mean_abs_cosine(directions) for directions in live]
                noise = gaussian(models[m], 10_000, m + 1_000)
                live = [live_directions(sae, noise) for sae in nulls[m]]
                row["null fvu"] = [fvu(noise, sae(noise)[0]) for sae in nulls[m]]
                yield row | {"null agreement": mean_agreement(live)}
