"""What you would try before an SAE. Each returns unit directions, one a row: (n, d_in)."""

import warnings

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, FastICA, MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning

from sae_lib.checks import finite


def _both_signs(axes: np.ndarray) -> torch.Tensor:
    """Unit rows and their opposites: an axis has no sign, a feature has one."""
    axes = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    return torch.from_numpy(np.concatenate([axes, -axes])).float()


def _matrix(activations: torch.Tensor) -> np.ndarray:
    """The activations in numpy; raise if all rows are equal, so that there is nothing to find.

    As doubles: beside a large mean, floats lose what varies.
    """
    x = finite("activations", activations, n_columns=0).cpu().double().numpy()
    if (x == x[0]).all():
        raise ValueError("activations: expected rows that differ, got the same in every row.")
    return x


def neuron_directions(activations: torch.Tensor) -> torch.Tensor:
    """Each hidden neuron, up and down: (2 d_in, d_in)."""
    return _both_signs(np.eye(finite("activations", activations, n_columns=0).shape[1]))


def pca_directions(activations: torch.Tensor) -> torch.Tensor:
    """The principal components, both ways: (2 d_in, d_in)."""
    x = _matrix(activations)
    return _both_signs(PCA().fit(x).components_)


def ica_directions(activations: torch.Tensor, *, seed: int = 0) -> torch.Tensor:
    """The columns of FastICA's mixing matrix, both ways: (2 d_in, d_in).

    Of activations that vary in fewer than d_in dimensions, two for each of those.
    """
    x = _matrix(activations)
    axes = PCA(svd_solver="full").fit(x)
    varies = axes.singular_values_ > 1e-5 * axes.singular_values_[0]
    axes = axes.components_[varies]  # along the others FastICA would divide by zero
    ica = FastICA(whiten="unit-variance", max_iter=1_000, tol=1e-3, random_state=seed)
    return _both_signs(ica.fit(x @ axes.T).mixing_.T @ axes)


def kmeans_directions(activations: torch.Tensor, n_clusters: int, *, seed: int = 0) -> torch.Tensor:
    """Cluster centres of the activations' directions: (n_clusters, d_in).

    Activations shorter than a twentieth of the mean length hardly have one and are left out.
    """
    x = _matrix(activations)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    x = (x / np.maximum(length, 1e-30))[length[:, 0] > 0.05 * length.mean()]
    if len(x) < n_clusters:
        expected = f"at least {n_clusters} rows that are not near zero"
        raise ValueError(f"activations: expected {expected}, got {len(x)}.")
    centres = KMeans(n_clusters, n_init=10, random_state=seed).fit(x).cluster_centers_
    return torch.nn.functional.normalize(torch.from_numpy(centres).float(), dim=1)


def sparse_coding_directions(
    activations: torch.Tensor, n_atoms: int, *, alpha: float = 0.5, seed: int = 0
) -> torch.Tensor:
    """The atoms of non-negative sparse coding, an SAE's strongest simple rival: (n_atoms, d_in).

    scikit-learn's MiniBatchDictionaryLearning with positive codes minimises
    |x - h D|^2 / 2 + alpha |h|_1 over both, with h >= 0 found by an optimisation for each input.
    The activations are first divided by their standard deviation. With alpha = 0.5 and two atoms
    a feature it finds all of 10 in 5 and 15 in 5, or all but one; at 0.05 few. Mairal et al. 2009.
    """
    x = _matrix(activations)
    learner = MiniBatchDictionaryLearning(
        n_atoms, alpha=alpha, positive_code=True, fit_algorithm="cd", random_state=seed
    )
    global_state = np.random.get_state()  # noqa: NPY002 - they draw from it, whatever the seed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of a few in 10,000 inner steps
        atoms = learner.fit(x / x.std()).components_
    np.random.set_state(global_state)  # noqa: NPY002
    return torch.nn.functional.normalize(torch.from_numpy(atoms).float(), dim=1)
