"""What the latents do: where they fire, on which words, beside whom, and whether it matters."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse

from beyond.real_model.activations import Activations
from beyond.real_model.language_model import LanguageModel
from sae_lib import SparseAutoencoder
from sae_lib.metrics import FIRES

# --- codes: which latent fires where ----------------------------------------------------


@torch.no_grad()
def codes(encode: Callable, x: torch.Tensor) -> sparse.csc_array:
    """Latent activations above FIRES on every token: sparse (n_tokens, d_sae)."""
    blocks = []
    for acts in map(encode, x.split(2_048)):
        rows, columns = torch.nonzero(acts > FIRES, as_tuple=True)
        places = rows.numpy(), columns.numpy()
        blocks.append(sparse.csr_array((acts[rows, columns].numpy(), places), tuple(acts.shape)))
    return sparse.csc_array(sparse.vstack(blocks))


def neurons(x: torch.Tensor, *, k: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The raw neurons, up and down, as 2 · width latents; of each token the k strongest fire.

    Strongest in units of each neuron's own spread, else a few loud ones would take every slot.
    """
    spread = x.std(dim=0)

    def encode(x: torch.Tensor) -> torch.Tensor:
        acts = torch.cat([x / spread, -x / spread], dim=1).clamp_min(0)
        strongest = acts.topk(k, dim=1)
        return torch.zeros_like(acts).scatter(1, strongest.indices, strongest.values)

    return encode


def partners(a: sparse.csc_array, b: sparse.csc_array) -> tuple[np.ndarray, np.ndarray]:
    """For each latent of a, the one of b that fires most alike, and how much: both (d_sae,).

    The cosine of their activations over all tokens. 1: they fire on the same tokens, equally
    strongly. 0: they share no token. A dead latent has similarity 0.
    """
    unit = []
    for code in (a, b):
        length = np.sqrt((code**2).sum(axis=0))
        unit.append(code @ sparse.diags_array(1 / np.where(length > 0, length, np.inf)))
    similar = (unit[0].T @ unit[1]).toarray()
    return similar.argmax(axis=1), similar.max(axis=1)


# --- words ----------------------------------------------------------------------------------


def words(activations: Activations) -> np.ndarray:
    """The word, in lower case, that each token belongs to: (n_tokens,) of str."""
    of_text, out = {}, []
    for text, start, _end in activations.tokens.tolist():
        if text not in of_text:
            pieces = re.finditer(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+|\S", activations.texts[text])
            of_text = {text: {i: p.group().lower() for p in pieces for i in range(*p.span())}}
        out.append(of_text[text].get(start, ""))
    return np.array(out)


def top_words(token_words: np.ndarray, code: sparse.csc_array, latent: int, n: int = 4) -> str:
    """The words that carry most of a latent's activation, with their share of it."""
    part = slice(code.indptr[latent], code.indptr[latent + 1])
    found, which = np.unique(token_words[code.indices[part]], return_inverse=True)
    if not len(found):
        return "nothing"
    total = np.bincount(which, code.data[part]) / code.data[part].sum()
    top = np.argsort(-total, kind="stable")[:n]
    return ", ".join(f"“{found[i]}” {total[i]:.0%}" for i in top)


def explained_by_word(
    token_words: np.ndarray, code: sparse.csc_array, n_train: int, *, at_least: int = 20
) -> np.ndarray:
    """How much of each latent's firing the word alone predicts: R² on the tokens from n_train on.

    Predicted is the mean activation on that word before n_train, 0 for a word not met there. 1: a
    list of words would do what the latent does. Latents that fire `at_least` times in both parts.
    """
    which = np.unique(token_words, return_inverse=True)[1]
    one_hot = sparse.csr_array((np.ones(len(which)), (np.arange(len(which)), which)))
    train, test = one_hot[:n_train], one_hot[n_train:]
    count = np.maximum(train.sum(axis=0), 1)
    mean = sparse.diags_array(1 / count) @ (train.T @ code[:n_train])
    acts = code[n_train:]
    error = ((acts - test @ mean) ** 2).sum(axis=0)
    spread = (acts**2).sum(axis=0) - np.asarray(acts.sum(axis=0)) ** 2 / acts.shape[0]
    fired = [np.diff(sparse.csc_array(part).indptr) for part in (code[:n_train], acts)]
    enough = np.minimum(*fired) >= at_least
    return 1 - error[enough] / spread[enough]


# --- names put to the test: lists of words that others made ---------------------------------


def label_tokens(
    token_words: np.ndarray, lists: Mapping[str, frozenset[str]], n_train: int, *, at_least: int
) -> dict[str, np.ndarray]:
    """Which tokens belong to a word of the list: bool (n_tokens,) for each list.

    Lists with fewer than `at_least` such tokens from n_train on are left out; ValueError if all.
    """
    vocabulary, of_token = np.unique(token_words, return_inverse=True)
    labels = {name: np.isin(vocabulary, list(members))[of_token] for name, members in lists.items()}
    labels = {name: label for name, label in labels.items() if label[n_train:].sum() >= at_least}
    if not labels:
        raise ValueError(
            f"Expected a list with {at_least} tokens in the texts set aside, got none."
        )
    return labels


def shuffled(token_words: np.ndarray, label: np.ndarray, *, seed: int) -> np.ndarray:
    """The label of a random word list: each word gives its label to one of like frequency.

    A harder chance level than shuffling tokens: a latent for any common word profits from it.
    """
    vocabulary, of_token, counts = np.unique(token_words, return_inverse=True, return_counts=True)
    of_word = np.zeros(len(vocabulary), dtype=bool)
    of_word[of_token[label]] = True
    by_count = np.argsort(-counts, kind="stable")
    rng = np.random.default_rng(seed)
    for first in range(0, len(by_count), 20):
        block = by_count[first : first + 20]
        of_word[block] = of_word[rng.permutation(block)]
    return of_word[of_token]


class Scores(NamedTuple):
    """F1 of every latent for every list, (d_sae, n_lists): to choose by, and to report."""

    train: np.ndarray
    test: np.ndarray

    def best_latents(self) -> tuple[np.ndarray, np.ndarray]:
        """For each list, the latent with the best F1 on the training tokens; its F1 on the rest."""
        best = self.train.argmax(axis=0)
        return best, self.test[best, np.arange(len(best))]

    def best_lists(self) -> tuple[np.ndarray, np.ndarray]:
        """For each latent, the same the other way round."""
        return Scores(self.train.T, self.test.T).best_latents()


def f1_scores(code: sparse.csc_array, labels: Sequence[np.ndarray], n_train: int) -> Scores:
    """F1 of "it fires" as a test for "the word is on the list", chosen and measured apart.

    A latent says yes where it is above 0, 1/4, 1/2 or 3/4 of its strongest training activation;
    which of the four is chosen on the training tokens too.
    """
    y = np.stack(labels).astype(np.float32).T  # (n_tokens, n_lists)
    strongest = code[:n_train].max(axis=0).toarray().ravel()
    tables = []
    for share in (0, 0.25, 0.5, 0.75):
        above = code.copy()
        above.data = (code.data > np.repeat(share * strongest, np.diff(code.indptr))) * 1.0
        tables.append([_f1(above[:n_train], y[:n_train]), _f1(above[n_train:], y[n_train:])])
    train, test = np.stack(tables, axis=1)  # each (4, d_sae, n_lists)
    best = train.argmax(axis=0)[None]
    return Scores(*(np.take_along_axis(x, best, axis=0)[0] for x in (train, test)))


def _f1(fired: sparse.csc_array, y: np.ndarray) -> np.ndarray:
    """2 · both / (fired + listed), for all pairs: (n, d_sae), (n, n_lists) -> (d_sae, n_lists)."""
    n_fired = np.asarray(fired.sum(axis=0)).reshape(-1, 1)
    return 2 * (fired.T @ y) / np.maximum(n_fired + y.sum(axis=0), 1)


def mean_differences(x: torch.Tensor, labels: Sequence[np.ndarray], n_train: int) -> torch.Tensor:
    """For each list, the mean of its training tokens less the mean of all: (n_lists, width).

    The simplest direction that was told the list: what a latent, which was not, is up against.
    """
    x = x[:n_train]  # whose mean is zero
    return torch.stack([x[torch.from_numpy(label[:n_train])].mean(dim=0) for label in labels])


# --- does the model miss what the SAE leaves out? ---------------------------------------------


@torch.no_grad()
def cross_entropy(
    language_model: LanguageModel,
    texts: Sequence[str],
    layer: int = 0,
    replace: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> float:
    """Nats that the model misses per token, with a layer's output x replaced by replace(x)."""
    total, n = 0.0, 0
    for first in range(0, len(texts), 16):
        inputs = language_model.tokenize(texts[first : first + 16])
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        with language_model.at_layer(layer, replace or (lambda x: x)):
            logits = language_model.model(input_ids=ids, attention_mask=mask).logits
        targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        total += torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), targets, ignore_index=-100, reduction="sum"
        ).item()
        n += int((targets != -100).sum())
    return total / n


def spliced(
    sae: SparseAutoencoder, activations: Activations
) -> Callable[[torch.Tensor], torch.Tensor]:
    """x -> the SAE's reconstruction of it; rows that are outliers stay as they are."""

    def replace(x: torch.Tensor) -> torch.Tensor:
        x_hat = activations.mean + activations.scale * sae(activations(x))[0]
        return torch.where(activations.is_outlier(x)[..., None], x, x_hat)

    return replace


def ablated(activations: Activations) -> Callable[[torch.Tensor], torch.Tensor]:
    """x -> the mean of all; rows that are outliers stay as they are."""
    return lambda x: torch.where(activations.is_outlier(x)[..., None], x, activations.mean)
