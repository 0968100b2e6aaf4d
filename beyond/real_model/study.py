"""What the page and docs/latents.html share: the model, what it read, its SAEs and their cards."""

import re
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from beyond.audit import gaussian_look_alike
from beyond.real_model import cards, latents, steer
from beyond.real_model.activations import Activations, collect
from beyond.real_model.language_model import OUT, load_language_model, with_random_weights
from beyond.real_model.texts import film_texts, word_lists
from beyond.real_model.train import SoftFrozen, TopK, train
from sae_lib import cosine_similarity_matrix

# Spanish and Portuguese: 26 of the page's texts are in these, and none in French
FOREIGN = "de la que una un para por el los las del y es se su uma um não em o e da ao mais"


class Study:
    """A language model, a layer of it, texts, and SAEs on that layer, kept in a folder.

    saes, codes: what `make` made, by (kind, seed); codes are sparse (n_tokens, d_sae). Kinds:
    "trained"; "soft-frozen"; "look-alike", on Gaussian noise with the activations' mean and
    covariance; "random weights", on the same layer of the model before any training;
    "embedding", on the model's layer 0.
    """

    def __init__(
        self,
        folder: str | Path = OUT,
        *,
        n_texts: int = 4_096,
        layer: int = 14,
        d_sae: int = 2_048,
        k: int = 24,
        n_steps: int = 600,
        min_tokens: int = 100,
    ):
        self.folder, self.layer, self.min_tokens = Path(folder), layer, min_tokens
        self.d_sae, self.k, self.n_steps = d_sae, k, n_steps
        self.model, self.texts = load_language_model(), film_texts(n_texts)
        self.activations = self._collect(f"layer-{layer}", self.model, layer)
        self.of_kind = dict.fromkeys(("trained", "soft-frozen", "neurons"), self.activations)
        self.saes, self.codes = {}, {}
        self.words = latents.words(self.activations)

    def _collect(self, name: str, model, layer: int) -> Activations:
        return collect(model, self.texts, self.folder / f"{name}.npy", layer=layer)

    def make(self, kind: str, seed: int = 0) -> TopK:
        """Train an SAE, or read it from the folder."""
        if kind == "random weights" and kind not in self.of_kind:
            random = with_random_weights(self.model)
            self.of_kind[kind] = self._collect("random-weights", random, self.layer)
        elif kind == "embedding" and kind not in self.of_kind:
            self.of_kind[kind] = self._collect(kind, self.model, 0)
        own = self.of_kind.get(kind, self.activations)
        x = self.noise if kind == "look-alike" else own.x
        sae = (SoftFrozen if kind == "soft-frozen" else TopK)(
            x.shape[1], self.d_sae, k=self.k, seed=seed
        )
        file = self.folder / f"{kind.replace(' ', '-')}-{seed}.pt"
        self.saes[kind, seed] = train(sae, x[: own.n_train], file, n_steps=self.n_steps, seed=seed)
        self.codes[kind, seed] = latents.codes(sae.encode, x)
        return sae

    @cached_property
    def noise(self) -> torch.Tensor:
        x = self.activations.x
        return gaussian_look_alike(x[: self.activations.n_train], len(x), seed=0)

    @cached_property
    def about(self) -> list[str]:
        """For each trained latent, the words that carry most of its activation."""
        code = self.codes["trained", 0]
        return [latents.top_words(self.words, code, i, 3) for i in range(self.d_sae)]

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """For each list of words, its tokens."""
        n_train = self.activations.n_train
        return latents.label_tokens(self.words, word_lists(), n_train, at_least=self.min_tokens)

    def acts(self, latent: int, kind: str = "trained") -> np.ndarray:
        return cards.column(self.codes[kind, 0], latent)

    def best_latent(self, label: np.ndarray) -> tuple[int, float]:
        """The trained latent that fits labelled tokens best on the training texts, its F1 aside."""
        n_train = self.activations.n_train
        if not label[:n_train].any():
            raise ValueError("Expected words that occur in the training texts, got none.")
        latent, f1 = latents.f1_scores(self.codes["trained", 0], [label], n_train).best_latents()
        return int(latent[0]), float(f1[0])

    @cached_property
    def not_english(self) -> np.ndarray:
        """Which tokens are of a text with more than one FOREIGN word in ten: (n_tokens,)."""
        foreign = set(FOREIGN.split())
        words = [re.findall(r"[^\W\d_]+|\S", text.lower()) for text in self.texts]
        share = np.array([np.mean([word in foreign for word in of_text]) for of_text in words])
        return share[self.activations.tokens[:, 0]] > 0.1

    def push(self, direction: torch.Tensor, amount: float = 0.8) -> torch.Tensor:
        """A vector along a direction; amount 1 is as long as a usual activation."""
        return amount * self.activations.scale * direction.detach() / direction.norm()

    def write(self, prompt: str, pushes: dict[str, torch.Tensor], n_tokens: int = 28) -> dict:
        """For each named push, what `steer.write` says that the model writes."""
        vectors = list(pushes.values())
        written = steer.write(self.model, prompt, self.layer, vectors, n_tokens=n_tokens)
        return dict(zip(pushes, written, strict=True))

    @cached_property
    def contexts(self) -> list[str]:
        """Sixteen words each of eight texts set aside, to measure pushes on."""
        aside = np.unique(self.activations.tokens[self.activations.n_train :, 0])[:8]
        return [" ".join(self.texts[i].split()[:16]) for i in aside]

    @cached_property
    def unpushed(self) -> torch.Tensor:
        return steer.next_log_probs(self.model, self.contexts)

    @cached_property
    def _facts(self):
        """What all cards share; needs the trained SAEs of seeds 0 and 1."""
        code, labels = self.codes["trained", 0], list(self.labels.values())
        lists = latents.f1_scores(code, labels, self.activations.n_train).best_lists()
        partner = latents.partners(code, self.codes["trained", 1])
        W_dec = self.saes["trained", 0].W_dec
        near = cosine_similarity_matrix(W_dec, W_dec).fill_diagonal_(-1).topk(3, dim=1)
        return lists, partner, near, cards.common_tokens(self.model, self.texts)

    def card(self, latent: int, *more: str) -> str:
        """All that is known of a trained latent, folded under its number and words."""
        (list_of, f1), (partner, alike), near, common = self._facts
        acts, direction = self.acts(latent), self.saes["trained", 0].W_dec[latent]
        pushed = steer.next_log_probs(self.model, self.contexts, self.layer, self.push(direction))
        most = (pushed - self.unpushed).mean(dim=0)[common].topk(8).indices
        raised = [self.model.tokenizer.decode([i]) for i in common[most]]
        similar = (
            f"{i} ({cosine:.2f}, {cards.escape(self.about[i])})"
            for cosine, i in zip(*(each[latent].tolist() for each in near), strict=True)
        )
        facts = {
            "fires on": f"{(acts > 0).mean():.2%} of the tokens; most on "
            f"{cards.escape(self.about[latent])}",
            "strength": cards.histogram(acts),
            "raises": cards.quoted(raised),
            "list": f"{list(self.labels)[list_of[latent]]}, F1 {f1[latent]:.2f}",
            "seed 1": f"latent {partner[latent]}, {alike[latent]:.2f} alike",
            "similar": ", ".join(similar),
        }
        title = f"Latent {latent}"
        whole = cards.card(title, facts, self.activations, acts)
        return cards.fold(f"{title}: {cards.escape(self.about[latent])}", whole, *more)
