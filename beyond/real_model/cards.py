"""Latents as people look at them: plain HTML, no script, its own colours in any theme."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import sparse

from beyond.real_model.activations import Activations
from beyond.real_model.language_model import LanguageModel
from beyond.real_model.texts import word_runs
from sae_lib import SparseAutoencoder
from sae_lib.metrics import FIRES

# --- contexts: where a latent fires, with the text around it ------------------------------


class Context(NamedTuple):
    """A piece of text; marks (start, end, value) of what fired there; where the row's token is."""

    text: str
    marks: list[tuple[int, int, float]]
    peak: int


def column(code: sparse.csc_array, latent: int) -> np.ndarray:
    """The activations of one latent on every token: (n_tokens,)."""
    return code[:, [latent]].toarray().ravel()


def context(activations: Activations, acts: np.ndarray, token: int, width: int = 60) -> Context:
    """The text around one token, and what else fired there. acts (n_tokens,): one latent's."""
    text_id, start, end = activations.tokens[token].tolist()
    text = activations.texts[text_id]
    left, right = max(0, start - width), min(len(text), end + width)
    if left:
        left = text.rfind(" ", 0, left) + 1
    if right < len(text):
        right = text.find(" ", right) if " " in text[right:] else len(text)
    before, after = "… " * (left > 0), " …" * (right < len(text))
    shift = len(before) - left
    first, last = np.searchsorted(activations.tokens[:, 0], [text_id, text_id + 1])
    marks = []
    for i in first + np.flatnonzero(acts[first:last]):
        s, e = activations.tokens[i, 1:].tolist()
        if left <= s < e <= right:
            marks.append((s + shift, e + shift, float(acts[i])))
    return Context(before + text[left:right] + after, marks, start + shift)


def pick_contexts(
    activations: Activations, acts: np.ndarray, tokens: Iterable[int], n: int, taken: list[Context]
) -> list[Context]:
    """The first n of these tokens' contexts, one a text, none nearly a row already `taken`."""
    chosen = []
    for token in tokens:
        if len(chosen) == n:
            break
        new = context(activations, acts, token)
        runs = word_runs(new.text)
        others = [word_runs(old.text) for old in taken]
        if all(2 * len(runs & other) < min(len(runs), len(other)) for other in others):
            chosen.append(new)
            taken.append(new)
    return chosen


def bands(
    activations: Activations, acts: np.ndarray, n_rows: Sequence[int] = (4, 3, 3), *, seed: int = 0
) -> list[tuple[str, list[Context]]]:
    """Rows from the strongest third of the strengths, the middle and the weakest.

    The strongest alone would flatter a latent: they are picked to look alike.
    """
    third = np.ceil(3 * (acts / (acts.max() or 1)))  # 3, 2, 1; 0 where it is silent
    rng, taken, out = np.random.default_rng(seed), [], []
    for i, name, n in zip((3, 2, 1), ("strong", "middling", "weak"), n_rows, strict=True):
        inside = np.flatnonzero(third == i)
        by_strength = inside[np.argsort(-acts[inside], kind="stable")]
        order = by_strength if name == "strong" else rng.permutation(inside)
        rows = pick_contexts(activations, acts, order, n, taken)
        out.append((f"{name}: {len(inside)} tokens", rows))
    return out


# --- HTML -----------------------------------------------------------------------------------

# Orange, so that it is told apart in any kind of colour vision; dark text on it reads at 4.5 : 1.
LEVELS = ("#fdeee6", "#fbd3bd", "#f7ab84", "#f08a55")
BOX = (
    "background:#ffffff;color:#1a1a1a;border:1px solid #767676;border-radius:6px;padding:8px 12px;"
    "margin:8px 0;max-width:820px;font:15px/1.5 system-ui,sans-serif;overflow-wrap:anywhere;"
    "text-align:left"
)


def box(*parts: str) -> str:
    return f'<div style="{BOX}">{"".join(parts)}</div>'


def fold(title: str, *parts: str) -> str:
    summary = f'<summary style="cursor:pointer;color:#1a1a1a">{title}</summary>'
    return f'<details style="margin:4px 0">{summary}{"".join(parts)}</details>'


def level(share: float) -> str:
    """The colour of a strength that is this share of the strongest."""
    return LEVELS[min(max(math.ceil(4 * share), 1), 4) - 1]


def mark(text: str, value: float, strongest: float, *, bold: bool = False) -> str:
    """A piece of text on a colour for its strength; the number shows on hover."""
    word = escape(text)
    style = f"background:{level(value / strongest)};color:#1a1a1a;padding:0 1px;border-radius:2px"
    return f'<mark title="{value:.2f}" style="{style}">{f"<b>{word}</b>" if bold else word}</mark>'


def row(context: Context, strongest: float, *, marked: bool = True) -> str:
    pieces, at = [], 0
    for start, end, value in context.marks if marked else ():
        pieces.append(escape(context.text[at:start]))
        bold = start == context.peak
        pieces.append(mark(context.text[start:end], value, strongest, bold=bold))
        at = end
    return "".join(pieces) + escape(context.text[at:])


def rows(contexts: Sequence[Context], strongest: float, *, marked: bool = True) -> str:
    items = (f'<li style="margin:2px 0">{row(c, strongest, marked=marked)}</li>' for c in contexts)
    return f'<ul style="margin:0 0 6px;padding-left:20px">{"".join(items)}</ul>'


def histogram(acts: np.ndarray, n_bins: int = 24) -> str:
    """How often each strength occurs, as a line of blocks on a log axis."""
    counts, _ = np.histogram(acts[acts > 0], n_bins, (0, acts.max()))
    blocks = " ▁▂▃▄▅▆▇█"
    heights = np.ceil(8 * np.log1p(counts) / np.log1p(counts.max())).astype(int)
    line = "".join(blocks[h] for h in heights)
    return (
        f'0 <span role="img" aria-label="histogram of the activations" '
        f'style="font-family:monospace;letter-spacing:-1px;white-space:pre">{line}</span> '
        f"{acts.max():.1f}"
    )


def common_tokens(
    language_model: LanguageModel, texts: Sequence[str], at_least: int = 10
) -> torch.Tensor:
    """The tokens that occur in the texts at least so often; the others are mostly odds and ends."""
    ids = language_model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    found, counts = np.unique(np.concatenate(ids), return_counts=True)
    return torch.from_numpy(found[counts >= at_least])


def quoted(tokens: Iterable[str]) -> str:
    return " ".join(f"“{escape(token.strip() or repr(token))}”" for token in tokens)


def card(title: str, facts: dict[str, str], activations: Activations, acts: np.ndarray) -> str:
    """One latent: a title, facts (name: HTML), and rows by strength."""
    lines = "".join(f"<div><b>{name}</b> {fact}</div>" for name, fact in facts.items())
    parts = [f'<div style="font-size:17px"><b>{escape(title)}</b></div>', lines]
    for heading, contexts in bands(activations, acts):
        if contexts:
            parts += [f'<div style="margin-top:6px">{heading}</div>', rows(contexts, acts.max())]
    return box(*parts)


def guessing_card(
    activations: Activations, acts: np.ndarray, taken: list[Context], *, seed: int = 0
) -> str:
    """Five rows to name a latent from, and three more to test the name on, folded.

    The five are the strongest. The three are drawn at random among the tokens on which it is at
    least a third as strong as on its strongest. None is nearly a row that is `taken`, by an
    earlier card; "" if there are no such eight.
    """
    fired, mine = np.flatnonzero(acts), list(taken)
    strongest = fired[np.argsort(-acts[fired], kind="stable")]
    five = pick_contexts(activations, acts, strongest, 5, mine)
    at_random = np.random.default_rng(seed).permutation(np.flatnonzero(acts > acts.max() / 3))
    three = pick_contexts(activations, acts, at_random, 3, mine)
    if len(three) < 3:
        return ""
    taken[:], top = mine, acts.max()
    answer = fold("Where it fires", rows(three, top))
    test = fold("Three more. On which token does it fire?", rows(three, top, marked=False), answer)
    return rows(five, top) + test


@torch.no_grad()
def own_acts(
    language_model: LanguageModel,
    layer: int,
    sae: SparseAutoencoder,
    activations: Activations,
    text: str,
) -> tuple[list[tuple[int, int]], torch.Tensor]:
    """Where each token of a new text stands, and what fires on it (n_tokens, d_sae)."""
    inputs = language_model.tokenize([text])
    x = language_model.activations(inputs, layer)[0]
    acts = sae.encode(activations(x))
    acts[activations.is_outlier(x)] = 0
    return inputs["offset_mapping"][0].tolist(), acts


def reading(
    language_model: LanguageModel,
    layer: int,
    sae: SparseAutoencoder,
    activations: Activations,
    text: str,
    about: Sequence[str],
) -> str:
    """Your own text: which latent fires most on each token, and what it usually fires on.

    about: for each latent, a few words. Raises ValueError if the text is empty.
    """
    if not text.strip():
        raise ValueError("my_text: expected at least one word, got none.")
    places, acts = own_acts(language_model, layer, sae, activations, text)
    marks, lines, top = [], [], acts.max().item()
    for (start, end), of_token in zip(places, acts, strict=True):
        value, latent = of_token.max(dim=0)
        if value > FIRES:
            start = end - len(text[start:end].lstrip() or text[start:end])  # no space before a word
            marks.append((start, end, value.item()))
            shown = mark(text[start:end], value.item(), top)
            words = escape(about[latent])
            lines.append(f"<div>{shown} latent <b>{latent}</b>, {value:.2f}: {words}</div>")
    own_text = f"<div>{row(Context(text, marks, peak=-1), top)}</div>"
    return box(own_text, '<div style="margin-top:8px">', *lines, "</div>")


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways where it is too wide."""
    style = "padding:2px 10px 2px 0;white-space:nowrap;color:#1a1a1a;background:#ffffff;text-align:"
    html = ['<div style="overflow-x:auto"><table style="border-collapse:collapse;font-size:14px">']
    for i, line in enumerate((head, *lines)):
        tag = "td" if i else "th"
        html.append("<tr>")
        for j, text in enumerate(line):
            side = "right" if j else "left"
            html.append(f'<{tag} style="{style}{side}">{escape(text)}</{tag}>')
        html.append("</tr>")
    return box(*html, "</table></div>")


LIKELIER = math.log(10)  # in pushed text a word is marked if the push made it ten times likelier


def marked(tokens: Iterable[tuple[str, float]]) -> list[tuple[str, float | None]]:
    """Of `steer.write`'s tokens, each one's text and how strongly it is marked, or None."""
    pieces = ((piece.replace("\n", " "), gain) for piece, gain in tokens)
    return [
        (piece, min(gain / LIKELIER / 4, 1) if gain > LIKELIER and piece.strip() else None)
        for piece, gain in pieces
    ]


def writing(prompt: str, written: Mapping[str, list[tuple[str, float]]]) -> str:
    """What the model writes after a prompt, once for each named push."""
    lines = []
    for name, tokens in written.items():
        pieces = [
            escape(piece)
            if share is None
            else piece[: -len(piece.strip())] + mark(piece.strip(), share, 1)
            for piece, share in marked(tokens)
        ]
        text = f"<b>{escape(name)}:</b> {escape(prompt)}<i>{''.join(pieces)}</i>"
        lines.append(f'<div style="margin-top:4px">{text}</div>')
    return box(*lines)


def picture(
    contexts: Sequence[Context], prompt: str, written: Mapping[str, list[tuple[str, float]]]
) -> plt.Figure:
    """One latent: texts with what it fired on, and below what the model writes when pushed."""
    top, n_shown = max(value for c in contexts for *_, value in c.marks), 98
    lines = [[("It fires on", None)]]
    for text, marks, peak in contexts:
        left = max(0, min(peak - 45, len(text) - n_shown))
        at = left = left and text.index(" ", left) + 1  # begin and end with whole words
        right = (
            left + n_shown if left + n_shown >= len(text) else text.rindex(" ", 0, left + n_shown)
        )
        line = [("  ", None)]
        for start, end, value in marks:
            if left <= start and end <= right:
                line += [(text[at:start], None), (text[start:end], value / top)]
                at = end
        lines.append([*line, (text[at:right], None)])
    for name, tokens in written.items():
        lines += [[(name, None)], [(f"  {prompt}", None), *marked(tokens)]]
    width, letter = 9.4, 0.09  # inches; DejaVu's letters are 0.602 of its size, and whole pixels
    fig = plt.figure(figsize=(width, 0.25 * len(lines)), layout="none")
    for y, line in enumerate(lines):
        x = 1
        for text, share in line:
            left = x + len(text) - len(text.lstrip())
            look = share and {"facecolor": level(share), "edgecolor": "none", "pad": 1}
            place = (left * letter / width, 1 - (y + 0.6) / len(lines))
            how = {"family": "monospace", "fontsize": 72 * letter / 0.602, "bbox": look}
            fig.text(*place, text.strip(), **how)
            x += len(text)
    return fig
