"""How SAEs fail: features that imply one another, rare features, an L0 that is too low."""

import copy
from collections.abc import Iterator

import torch
from torch.nn.functional import normalize

from evidence.common import CROWDED, Models, base_models, orthogonal_models, scores, trained
from sae_lib import (
    FALLING_PRICE,
    SAELoss,
    SparseAutoencoder,
    ToyModel,
    cosine_similarity_matrix,
    fires,
    match_features,
    sae_loss,
)


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


def changed(models: Models, **settings) -> Models:
    """The same base models, on inputs of another kind."""
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


class Families(Related):
    """Features 0 to 3 are parents; 4 + i and 8 + i the children of parent i.

    A parent is on alone, with one child or with the other, equally often.
    """

    fixed = True

    def relate(self, is_on: torch.Tensor, rng: torch.Generator) -> None:
        which = torch.randint(3, (len(is_on), 4), generator=rng)
        parents = is_on[:, :4].clone()
        is_on[:, 4:8], is_on[:, 8:] = parents & (which == 1), parents & (which == 2)


def a_and_b(
    sae: SparseAutoencoder, model: ToyModel, features: torch.Tensor, x: torch.Tensor
) -> dict:
    """Where the latents of A and B point, and on which inputs A's fires.

    C is any other feature but A's opposite, which leaves nothing of A in the activation.
    """
    owner = match_features(cosine_similarity_matrix(sae.W_dec, model.feature_directions)).latent
    a, b = normalize(model.feature_directions[:2], dim=1)
    targets = torch.stack([a, b, a + b])
    of_a, of_b = cosine_similarity_matrix(sae.W_dec[owner[:2]], targets)
    acts = sae.encode(x)
    live = fires(acts).any(dim=0)
    sums = cosine_similarity_matrix(sae.W_dec[live], targets[2:])
    row = {"cos(A's, A)": of_a[0], "cos(B's, B)": of_b[1], "cos(B's, A+B)": of_b[2]}
    row |= {"best cos with A+B": sums.max()}
    is_on, others = features > 0, (features[:, 2:] > 0).sum(dim=1)
    opposite = is_on.float() @ (normalize(model.feature_directions, dim=1) @ a < -0.9).float() > 0
    inputs = {"A alone": ~is_on[:, 1] & (others == 0), "A and B": is_on[:, 1] & (others == 0)}
    inputs |= {"A and an independent C": ~is_on[:, 1] & (others == 1) & ~opposite}
    for name, chosen in inputs.items():
        row[f"A's fires on {name}"] = fires(acts[chosen & is_on[:, 0], owner[0]]).float().mean()
    return {name: float(value) for name, value in row.items()}


def implied() -> Iterator[dict]:
    """10 in 5, sparsity 0.9, B on for half of the inputs with A and never else; values U[0, 1]."""
    models = base_models(10, 5, 0.9, Implied)
    settings = {f"λ = {l1}": {"l1": l1} | CROWDED for l1 in (0.03, 0.1)}
    settings = {"λ falling to 0.001": {"l1": 0.001} | FALLING_PRICE} | settings
    for setting, recipe in (settings | {"k = 1": {"k": 1} | CROWDED}).items():
        yield from scores(models, trained(models, 20, **recipe), a_and_b, setting=setting)


def absorption() -> Iterator[dict]:
    """As implied, on the same base models, but every feature that is on has the value 1."""
    models = changed(base_models(10, 5, 0.9, Implied), fixed=True)
    settings = {"λ falling to 0.001": {"l1": 0.001} | FALLING_PRICE}
    settings |= {"λ = 0.03": {"l1": 0.03} | CROWDED}
    for setting, recipe in settings.items():
        yield from scores(models, trained(models, 20, **recipe), a_and_b, setting=setting)


def joint() -> Iterator[dict]:
    """Crowded and dependent: 15 in 5, sparsity 0.95, B implied by A; 40 latents."""
    models = base_models(15, 5, 0.95, Implied)
    for l1 in (0.03, 0.1, 0.15, 0.2):
        yield from scores(models, trained(models, 40, l1=l1, **CROWDED), a_and_b, l1=l1)


class Matryoshka(SparseAutoencoder):
    """The first 4, the first 8 and all of the latents must each rebuild the input alone.

    loss = sum over these prefixes of |x - x_hat|^2, and the price of the whole code, once.
    Early latents so cannot leave to later ones what is often on. Bussmann et al. 2025,
    arXiv 2503.17547 (there with BatchTopK instead of a price).
    """

    prefixes = (4, 8)

    def loss(self, x: torch.Tensor, l1_coefficient: float) -> SAELoss:
        x_hat, acts = self(x)
        total, error, price = sae_loss(x, x_hat, acts, l1_coefficient)
        for n in self.prefixes:
            part = acts[..., :n] @ self.W_dec[..., :n, :] + self.b_dec
            total = total + (part - x).square().sum(dim=-1).mean(dim=-1)
        return SAELoss(total, error, price)


def parents(
    sae: SparseAutoencoder, model: ToyModel, features: torch.Tensor, x: torch.Tensor
) -> dict:
    """The latent nearest to each parent: where it points, and whether it fires with a child."""
    truth = model.feature_directions
    cosines = cosine_similarity_matrix(sae.W_dec, truth)
    owner = match_features(cosines[:, :4]).latent
    fired, is_on = fires(sae.encode(x))[:, owner], features > 0
    with_child = is_on[:, 4:8] | is_on[:, 8:]
    row = {"cos(parent's, parent)": cosines[owner, range(4)].mean()}
    row["cos with a child, best"] = cosines[:, 4:].max(dim=0).values.mean()
    sums = (truth[:4].repeat(2, 1) + truth[4:]) / 2**0.5
    row["cos with parent + child, best"] = (
        cosine_similarity_matrix(sae.W_dec, sums).max(dim=0).values.mean()
    )
    row["parent's fires alone"] = fired[is_on[:, :4] & ~with_child].float().mean()
    row["parent's fires with a child"] = fired[with_child].float().mean()
    return {name: float(value) for name, value in row.items()}


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


def halves(
    sae: SparseAutoencoder, model: ToyModel, features: torch.Tensor, x: torch.Tensor
) -> dict:
    """How many of the 50 commonest and of the 50 rarest features are found."""
    cosines = cosine_similarity_matrix(sae.W_dec, model.feature_directions)
    found = match_features(cosines).cosine >= 0.99
    return {"of the 50 commonest": int(found[:50].sum()), "of the 50 rarest": int(found[50:].sum())}


def rare() -> Iterator[dict]:
    """100 in 30, five on at a time; feature i with a probability in proportion to i^-exponent.

    TopK, k = 5, 200 latents; 2 SAE seeds. The base models were trained on equally frequent
    features, so that every one of them has its direction. For exponent 0 see baselines.
    """
    for exponent, n_steps in ((0.5, 2_000), (1.0, 2_000), (1.5, 2_000), (1.5, 8_000)):
        models = changed(base_models(100, 30, 0.95, Rare), exponent=exponent)
        recipe = CROWDED | {"n_steps": n_steps, "n": 50_000}
        saes = trained(models, 200, k=5, seeds=range(2), **recipe)
        about = {"exponent": exponent, "n_steps": n_steps}
        for row in scores(models, saes, halves, **about):
            rarest = models[row["base_model"]].probabilities().min()
            yield row | {"p of the rarest": float(rarest)}


def l0_too_low() -> Iterator[dict]:
    """20 features at right angles in 20 dimensions, 5 on at a time; TopK with 40 latents.

    8 SAE seeds.
    """
    models = orthogonal_models(20, 0.75)
    for k in (1, 2, 3, 5, 8):
        saes = trained(models, 40, k=k, seeds=range(8), **CROWDED)
        yield from scores(models, saes, k=k)
