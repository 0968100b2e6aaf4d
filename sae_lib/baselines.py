"""What you would try before an SAE. Each returns unit directions, one a row: (n, d_in)."""

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, FastICA

from sae_lib.validation import require_finite_matrix, require_positive_int


def _both_signs(axes: np.ndarray) -> torch.Tensor:
    """Unit rows and their opposites: an axis has no sign, a feature has one."""
    axes = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    return torch.tensor(np.concatenate([axes, -axes]), dtype=torch.float32)


def neuron_directions(activations: torch.Tensor) -> torch.Tensor:
    """Each hidden neuron, up and down: (2 d_in, d_in)."""
    require_finite_matrix("activations", activations)
    return _both_signs(np.eye(activations.shape[1]))


def pca_directions(activations: torch.Tensor) -> torch.Tensor:
    """The principal components, both ways: (2 d_in, d_in)."""
    require_finite_matrix("activations", activations)
    return _both_signs(PCA().fit(activations.detach().cpu().numpy()).components_)


def ica_directions(activations: torch.Tensor, *, seed: int = 0) -> torch.Tensor:
    """The columns of FastICA's mixing matrix, both ways: (2 d_in, d_in)."""
    require_finite_matrix("activations", activations)
    ica = FastICA(whiten="unit-variance", max_iter=1_000, tol=1e-3, random_state=seed)
    return _both_signs(ica.fit(activations.detach().cpu().numpy()).mixing_.T)


def kmeans_directions(activations: torch.Tensor, n_clusters: int, *, seed: int = 0) -> torch.Tensor:
    """Cluster centres of the activations' directions: (n_clusters, d_in).

    Activations near zero have no direction and are left out.
    """
    require_finite_matrix("activations", activations)
    require_positive_int(n_clusters=n_clusters)
    x = activations.detach().cpu().numpy()
    length = np.linalg.norm(x, axis=1, keepdims=True)
    x = (x / np.maximum(length, 1e-12))[length[:, 0] > 0.05]
    centres = KMeans(n_clusters, n_init=10, random_state=seed).fit(x).cluster_centers_
    return torch.nn.functional.normalize(torch.tensor(centres, dtype=torch.float32), dim=1)
