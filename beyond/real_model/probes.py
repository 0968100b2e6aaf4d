"""Names put to the test without a ground truth: word lists as labels, and pushing latents."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse

from beyond.real_model.activations import Transformer, package_folder, word_lists_of_empath
from beyond.real_model.train import Standardised

# --- labels: does a latent fire on the words of a list? -----------------------------------

GRAMMAR = {
    "plural nouns": {"NNS"},
    "past-tense verbs": {"VBD"},
    "verbs in -ing": {"VBG"},
    "modal verbs": {"MD"},
    "pronouns": {"PRP", "PRP$"},
    "numbers": {"CD"},
    "comparatives": {"JJR", "RBR"},
    "superlatives": {"JJS", "RBS"},
    "adverbs": {"RB"},
    "adjectives": {"JJ"},
    "prepositions": {"IN"},
    "articles and the like": {"DT"},
    "question words": {"WP", "WDT", "WRB"},
}  # Penn tags


def word_lists() -> dict[str, frozenset[str]]:
    """Lists that others made: TextBlob's part-of-speech lexicon, and Empath's topics.

    A word has one tag there, its most frequent one, whatever it is in a sentence.
    """
    text = (package_folder("textblob") / "en" / "en-lexicon.txt").read_text("utf-8")
    pairs = [line.split() for line in text.splitlines() if line and not line.startswith(";;;")]
    tag_of = {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[0].islower()}
    grammar = {
        name: frozenset(word for word, tag in tag_of.items() if tag in tags)
        for name, tags in GRAMMAR.items()
    }
    topics = {f"topic: {name}": words for name, words in word_lists_of_empath().items()}
    return grammar | topics


def label_tokens(
    token_words: np.ndarray, lists: Mapping[str, frozenset[str]], *, min_tokens: int, first: int
) -> dict[str, np.ndarray]:
    """Which tokens belong to a word of the list: bool (n_tokens,) for each list.

    Lists with fewer than `min_tokens` such tokens from token `first` on are left out.
    """
    vocabulary, of_token = np.unique(token_words, return_inverse=True)
    labels = {}
    for name, words in lists.items():
        label = np.isin(vocabulary, list(words))[of_token]
        if label[first:].sum() >= min_tokens:
            labels[name] = label
    return labels


def shuffled_labels(token_words: np.ndarray, label: np.ndarray, *, seed: int) -> np.ndarray:
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


class Found(NamedTuple):
    """A latent that stands for a label where it is at least `threshold`, and how well it does."""

    latent: int
    threshold: float
    f1: float
    precision: float
    recall: float


def best_latents(
    code: sparse.csc_array, labels: Mapping[str, np.ndarray], n_train: int
) -> dict[str, Found]:
    """For each label, the latent and threshold with the best F1 on the first n_train tokens.

    F1, precision and recall are those of the other tokens, which the choice has not seen.
    """
    train, test = code[:n_train], code[n_train:]
    latent = np.repeat(np.arange(train.shape[1]), np.diff(train.indptr))
    order = np.lexsort((-train.data, latent))  # each latent's tokens, strongest first
    tokens, values = train.indices[order], train.data[order]
    starts = train.indptr[latent]
    fired_so_far = np.arange(len(order)) - starts + 1
    found = {}
    for name, label in labels.items():
        y, y_test = label[:n_train], label[n_train:]
        hits = np.cumsum(y[tokens])
        hits -= np.r_[0, hits][starts]
        best = int(np.argmax(hits / (fired_so_far + y.sum())))  # half of F1
        fired = test[:, [latent[best]]].toarray().ravel() >= values[best]
        both, n_fired, n_label = (fired & y_test).sum(), fired.sum(), y_test.sum()
        found[name] = Found(
            int(latent[best]),
            float(values[best]),
            float(2 * both / max(n_fired + n_label, 1)),
            float(both / max(n_fired, 1)),
            float(both / max(n_label, 1)),
        )
    return found


def mean_differences(
    data: Standardised, labels: Mapping[str, np.ndarray]
) -> dict[str, torch.Tensor]:
    """For each label, the mean of its training tokens less the mean of all: (width,).

    The simplest direction that knows the labels: what a latent, which does not, is up against.
    """
    y = torch.from_numpy(np.stack(list(labels.values()))[:, : data.n_train]).float()
    sums, start = torch.zeros(len(y), data.activations.width), 0
    for x in data.chunks(0, data.n_train):  # their mean is zero
        sums += y[:, start : start + len(x)] @ x
        start += len(x)
    return dict(zip(labels, sums / y.sum(dim=1, keepdim=True), strict=True))


def code_along(data: Standardised, direction: torch.Tensor) -> sparse.csc_array:
    """How far every token lies along a direction, where positive, as a code of one column."""
    far = torch.cat([x @ direction for x in data.chunks()]).clamp_min(0)
    return sparse.csc_array(far[:, None].numpy())


# --- pushing: does the label predict what changes in the model's output? ------------------


@torch.no_grad()
def embed(
    transformer: Transformer,
    texts: Sequence[str],
    layer: int | None = None,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Sentence embeddings, length 1: (n, width). The mean of the last layer over the tokens.

    change(x): what is added to the output of `layer` at every token but the special ones.
    """
    out = []
    for first in range(0, len(texts), 64):
        inputs = transformer.tokenize(texts[first : first + 64])
        inputs.pop("offset_mapping")
        special = inputs.pop("special_tokens_mask")
        mask = inputs["attention_mask"][..., None]
        if change is None:
            last = transformer.model(**inputs).last_hidden_state
        else:
            inner = mask * (1 - special[..., None])
            with transformer.at_layer(layer, lambda x, inner=inner: x + inner * change(x)):
                last = transformer.model(**inputs).last_hidden_state
        out.append((last * mask).sum(dim=1) / mask.sum(dim=1))
    return torch.nn.functional.normalize(torch.cat(out), dim=-1)


def push(data: Standardised, direction: torch.Tensor, amount: float):
    """Add `amount` of a direction to every token; 1 is as long as a usual activation."""
    step = data.scale * amount * direction.detach() / direction.norm()
    return lambda _x: step


def topic_directions(
    transformer: Transformer, lists: Sequence[Sequence[str]], others: Sequence[str]
) -> torch.Tensor:
    """Each list's mean embedding, less that of other words; length 1: (n_lists, width)."""
    middle = embed(transformer, others).mean(dim=0)
    means = torch.stack([embed(transformer, sorted(words)).mean(dim=0) for words in lists])
    return torch.nn.functional.normalize(means - middle, dim=-1)


def matched(rates: np.ndarray, latents: Sequence[int], n: int, *, seed: int) -> np.ndarray:
    """For each latent, n others at random from the 4 n with the nearest firing rates."""
    rng, out = np.random.default_rng(seed), []
    free = np.setdiff1d(np.flatnonzero(rates), latents)
    for latent in latents:
        nearest = free[np.argsort(abs(np.log(rates[free] / rates[latent])), kind="stable")]
        out.append(rng.choice(nearest[: 4 * n], n, replace=False))
    return np.array(out)
