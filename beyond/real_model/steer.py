"""Pushing a latent while the model writes, and measuring how much of the push is the model's."""

from collections.abc import Iterable, Sequence

import torch

from beyond.real_model.language_model import LanguageModel


@torch.no_grad()
def write(
    language_model: LanguageModel,
    prompt: str,
    layer: int,
    pushes: Sequence[torch.Tensor],
    *,
    n_tokens: int = 30,
) -> list[list[tuple[str, float]]]:
    """What the model writes on after the prompt, once for each push: tokens, and each one's gain.

    pushes: vectors (width,) that are added to the output of a layer at every token; zeros for the
    model as it is. The likeliest token each time, repetitions made less likely: nothing is random.
    gain: how much likelier the push made that token, in nats, given what stands before it.
    """
    inputs = language_model.tokenize([prompt] * len(pushes))
    n_prompt, added = inputs["input_ids"].shape[1], torch.stack(list(pushes))[:, None]
    with language_model.at_layer(layer, lambda x: x + added):
        ids = language_model.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=n_tokens,
            do_sample=False,
            repetition_penalty=1.3,
            pad_token_id=language_model.tokenizer.pad_token_id,
        )
        pushed = language_model.model(input_ids=ids).logits.log_softmax(dim=-1)
    gain = pushed - language_model.model(input_ids=ids).logits.log_softmax(dim=-1)
    gain = gain[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    end = language_model.tokenizer.eos_token_id
    written = []
    for tokens, gains in zip(ids[:, n_prompt:].tolist(), gain[:, n_prompt - 1 :], strict=True):
        tokens = tokens[: tokens.index(end)] if end in tokens else tokens
        pieces = [language_model.tokenizer.decode([token]) for token in tokens]
        written.append(list(zip(pieces, gains.tolist(), strict=False)))
    return written


def token_ids(language_model: LanguageModel, members: Iterable[str]) -> list[int]:
    """The tokens that are a whole word of the list, with the space before it."""
    ids = (language_model.tokenizer.encode(" " + word) for word in sorted(members))
    return sorted({i[0] for i in ids if len(i) == 1})


@torch.no_grad()
def next_log_probs(
    language_model: LanguageModel,
    texts: Sequence[str],
    layer: int = 0,
    push: torch.Tensor | None = None,
) -> torch.Tensor:
    """Log probability of every token as the next one, at every place: (n_places, n_vocabulary).

    push (width,) is added to the output of a layer at every token. Added after the last layer
    (layer = number of layers), no layer can use it: what it does there passes straight through.
    """
    inputs = language_model.tokenize(texts)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with language_model.at_layer(layer, (lambda x: x) if push is None else lambda x: x + push):
        logits = language_model.model(input_ids=ids, attention_mask=mask).logits
    return logits[mask > 0].log_softmax(dim=-1)


def log_odds(log_probs: torch.Tensor, lists: Sequence[Sequence[int]]) -> torch.Tensor:
    """Log odds that the next token is on each list, the mean over all places: (n_lists,)."""
    log_p = torch.stack([log_probs[:, tokens].logsumexp(dim=-1) for tokens in lists])
    return (log_p - torch.log1p(-log_p.exp().clamp_max(1 - 1e-6))).mean(dim=1)
