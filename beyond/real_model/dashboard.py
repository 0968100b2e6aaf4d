"""What do the latents fire on? Codes, contexts, agreement, and a page to look through."""

import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse

from beyond.real_model.activations import Activations
from beyond.real_model.train import Standardised
from sae_lib import SparseAutoencoder
from sae_lib.metrics import FIRES

# --- codes: which latent fires where ----------------------------------------------------


def _sparse(acts: torch.Tensor) -> sparse.csr_array:
    rows, columns = torch.nonzero(acts, as_tuple=True)
    places = rows.numpy(), columns.numpy()
    return sparse.csr_array((acts[rows, columns].numpy(), places), shape=tuple(acts.shape))


@torch.no_grad()
def codes(
    sae: SparseAutoencoder, data: Standardised, first: int = 0, last: int | None = None
) -> sparse.csc_array:
    """Latent activations above FIRES of the tokens first..last: sparse (n_tokens, d_sae)."""
    blocks = []
    for x in data.chunks(first, last):
        acts = sae.encode(x)
        blocks.append(_sparse(acts * (acts > FIRES)))
    return sparse.csc_array(sparse.vstack(blocks))


def neuron_codes(
    data: Standardised, first: int = 0, last: int | None = None, *, share: float = 0.05
) -> sparse.csc_array:
    """The raw neurons, up and down, as if each were a latent: sparse (n_tokens, 2 width).

    A neuron is never silent, so it counts where it is in the highest (or lowest) `share` of the
    training tokens.
    """
    sample = data.batch(20_000, seed=0, step=0)
    both = torch.cat([sample, -sample], dim=1)
    threshold = torch.quantile(both, 1 - share, dim=0).clamp_min(1e-6)
    blocks = []
    for x in data.chunks(first, last):
        both = torch.cat([x, -x], dim=1)
        blocks.append(_sparse(both * (both > threshold)))
    return sparse.csc_array(sparse.vstack(blocks))


def firing_rates(code: sparse.csc_array) -> np.ndarray:
    """On which share of the tokens each latent fires: (d_sae,). Zero is dead."""
    return np.diff(code.indptr) / code.shape[0]


def firing_agreement(a: sparse.csc_array, b: sparse.csc_array) -> np.ndarray:
    """For each live latent of a, the cosine of its activations with the most similar of b's.

    1: some latent of b fires on the same tokens, equally strongly. 0: none shares a token. It
    compares what latents do, so it also serves where decoders were never trained.
    """
    scaled = []
    for code in (a, b):
        length = np.sqrt((code**2).sum(axis=0))
        live = np.flatnonzero(length)
        scaled.append(code[:, live] @ sparse.diags_array(1 / length[live]))
    return (scaled[0].T @ scaled[1]).max(axis=1).toarray().ravel()


# --- contexts: where a latent fires, with the text around it ------------------------------


class Context(NamedTuple):
    """A piece of text; marks [start, end, strength 1 to 4] of tokens that fired, and the peak."""

    text: str
    marks: list[list[int]]
    peak: list[int]


def words(activations: Activations) -> np.ndarray:
    """The word, in lower case, that each token belongs to: (n_tokens,) of str."""
    of_text, out = {}, []
    for text, start, _end in activations.tokens.tolist():
        if text not in of_text:
            pieces = re.finditer(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+|\S", activations.texts[text])
            of_text = {text: {i: p.group().lower() for p in pieces for i in range(*p.span())}}
        out.append(of_text[text].get(start, ""))
    return np.array(out)


def _context(activations: Activations, acts: np.ndarray, token: int, width: int) -> Context:
    """The text around one token, and what else fired there. acts: one latent, every token."""
    text_id, start, end = activations.tokens[token].tolist()
    text = activations.texts[text_id]
    left, right = max(0, start - width), min(len(text), end + width)
    if left:
        left = text.rfind(" ", 0, left) + 1
    if right < len(text):
        right = text.find(" ", right) if " " in text[right:] else len(text)
    before, after = "… " * (left > 0), " …" * (right < len(text))
    shift = len(before) - left
    same = np.flatnonzero(activations.tokens[:, 0] == text_id)
    marks = []
    for i in same[acts[same] > 0]:
        s, e = activations.tokens[i, 1:].tolist()
        if left <= s and e <= right:
            marks.append([s + shift, e + shift, int(np.ceil(4 * acts[i] / acts.max()))])
    return Context(before + text[left:right] + after, marks, [start + shift, end + shift])


def contexts(
    activations: Activations,
    code: sparse.csc_array,
    latent: int,
    *,
    n_top: int = 5,
    n_random: int = 3,
    width: int = 45,
    seed: int = 0,
) -> tuple[list[Context], list[Context]]:
    """Where a latent fires most strongly, and where it fires at random, one context per text.

    The strongest alone would flatter it: they are picked to look alike.
    """
    acts = code[:, [latent]].toarray().ravel()
    fired = np.flatnonzero(acts)
    strongest = fired[np.argsort(-acts[fired], kind="stable")]
    at_random = np.random.default_rng(seed).permutation(fired)
    seen, picked = set(), []
    for order, n in ((strongest, n_top), (at_random, n_random)):
        chosen = []
        for token in order:
            text = int(activations.tokens[token, 0])
            if len(chosen) < n and text not in seen:
                seen.add(text)
                chosen.append(_context(activations, acts, token, width))
        picked.append(chosen)
    return tuple(picked)


def _share_of_words(
    token_words: np.ndarray, code: sparse.csc_array, latent: int
) -> list[tuple[str, float]]:
    """The words a latent fires on, each with its share of the summed activation, largest first."""
    part = slice(code.indptr[latent], code.indptr[latent + 1])
    found, which = np.unique(token_words[code.indices[part]], return_inverse=True)
    total = np.bincount(which, code.data[part]) / code.data[part].sum()
    return [(str(found[i]), float(total[i])) for i in np.argsort(-total, kind="stable")]


def top_words(token_words: np.ndarray, code: sparse.csc_array, latent: int, n: int = 4) -> str:
    """The words that carry most of a latent's activation, with their share of it."""
    top = _share_of_words(token_words, code, latent)[:n]
    return ", ".join(f"“{word}” {share:.0%}" for word, share in top)


def share_of_top_word(token_words: np.ndarray, code: sparse.csc_array, latent: int) -> float:
    """1: the latent fires on one word only. Near 0: on many, or on something else than words."""
    return _share_of_words(token_words, code, latent)[0][1]


# --- the page ---------------------------------------------------------------------------


def describe(
    activations: Activations,
    token_words: np.ndarray,
    code: sparse.csc_array,
    latents: Sequence[int],
) -> dict[int, dict]:
    """What the page shows of each latent."""
    rates = firing_rates(code)
    described = {}
    for latent in map(int, latents):
        top, at_random = contexts(activations, code, latent)
        described[latent] = {
            "rate": float(rates[latent]),
            "words": top_words(token_words, code, latent),
            "top": top,
            "random": at_random,
        }
    return described


# Orange with an underline, so that colour is not all that marks a token; on white in any theme.
_LEVELS = ("#fdeee6", "#fbd3bd", "#f7ab84", "#f08a55")
_CARD = (
    "background:#fff;color:#1a1a1a;border:1px solid #767676;border-radius:6px;padding:12px;"
    "max-width:860px;font:15px/1.5 system-ui,sans-serif;overflow-wrap:anywhere"
)


def _context_html(context: Context) -> str:
    pieces, at = [], 0
    for start, end, level in context.marks:
        word = html.escape(context.text[start:end])
        if [start, end] == context.peak:
            word = f"<b style='text-decoration:underline'>{word}</b>"
        style = f"background:{_LEVELS[level - 1]};color:#1a1a1a"
        pieces += [html.escape(context.text[at:start]), f'<mark style="{style}">{word}</mark>']
        at = end
    return "".join(pieces) + html.escape(context.text[at:])


def _latent_html(name: str, latent: int, told: Mapping) -> str:
    lists = []
    for heading, kind in (("strongest", "top"), ("at random", "random")):
        items = "".join(f"<li>{_context_html(c)}</li>" for c in told[kind])
        lists.append(f"<p>{heading}:</p><ul>{items}</ul>")
    return (
        f"<p><b>{html.escape(name)}, latent {latent}</b>: fires on {told['rate']:.2%} of the "
        f"tokens; mostly on {html.escape(told['words'])}</p>{''.join(lists)}"
    )


def page(groups: Mapping[str, Mapping[int, Mapping]], still: Sequence[int]) -> str:
    """A page to look through, in one piece of HTML: no widget, no network.

    groups: for each dictionary, what `describe` gave. Where scripts run, one picks a dictionary
    and a latent and searches all contexts for a word. Where they do not, the latents `still` of
    the first dictionary stand as plain text with marks.
    """
    first = next(iter(groups))
    data = json.dumps(groups, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    key = "latents-" + hashlib.sha256(data.encode()).hexdigest()[:10]
    plain = "<hr>".join(_latent_html(first, i, groups[first][i]) for i in still)
    script = _SCRIPT.replace("KEY", key).replace("DATA", data)
    script = script.replace("LEVELS", json.dumps(_LEVELS)).replace("START", str(still[0]))
    return f'<div id="{key}" style="{_CARD}">{plain}</div>\n<script>{script}</script>'


def still(
    activations: Activations,
    token_words: np.ndarray,
    code: sparse.csc_array,
    latents: Sequence[int],
    name: str,
) -> str:
    """Some latents as plain HTML, without controls."""
    told = describe(activations, token_words, code, latents)
    plain = "<hr>".join(_latent_html(name, latent, told[latent]) for latent in told)
    return f'<div style="{_CARD}">{plain}</div>'


_SCRIPT = r"""
(() => {
const root = document.getElementById("KEY"), data = DATA, levels = LEVELS;
if (!root) return;
const make = (tag, parent, text, style) => {
  const e = document.createElement(tag);
  if (text) e.textContent = text;
  if (style) e.style.cssText = style;
  parent.append(e);
  return e;
};
const control = "font:inherit;color:#1a1a1a;background:#fff;border:1px solid #595959;" +
  "border-radius:4px;padding:4px 6px;max-width:100%;box-sizing:border-box;color-scheme:light;";
const field = (tag, label, style) => {
  const l = make("label", bar, label + " ", "display:inline-block;margin:0 14px 8px 0");
  return make(tag, l, "", control + (style || ""));
};
root.textContent = "";
const bar = make("div", root), count = make("p", root, "", "margin:0 0 8px");
const view = make("div", root);
count.setAttribute("role", "status");
const which = field("select", "dictionary"), search = field("input", "contains the word");
const pick = field("select", "latent", "width:320px;padding-right:28px;text-overflow:ellipsis;");
search.type = "search";
for (const name of Object.keys(data)) make("option", which, name);
const buttons = [["previous", -1], ["next", 1]].map(([name, step]) => {
  const b = make("button", bar, name, control + "cursor:pointer;margin:0 6px 8px 0");
  b.type = "button";
  b.onclick = () => { pick.selectedIndex += step; show(); };
  return b;
});
const row = (list, [text, marks, peak]) => {
  const item = make("li", list, "", "margin:2px 0");
  let at = 0;
  for (const [start, end, level] of marks) {
    item.append(text.slice(at, start));
    const strongest = start == peak[0];
    make("mark", item, text.slice(start, end), "color:#1a1a1a;padding:0 1px;border-radius:2px;" +
      "background:" + levels[level - 1] +
      (strongest ? ";font-weight:bold;text-decoration:underline" : ""));
    at = end;
  }
  item.append(text.slice(at));
};
const show = () => {
  view.textContent = "";
  const told = data[which.value][pick.value];
  buttons[0].disabled = pick.selectedIndex <= 0;
  buttons[1].disabled = pick.selectedIndex >= pick.length - 1;
  if (!told) return;
  make("p", view, "Fires on " + (100 * told.rate).toFixed(2) + " % of the tokens; mostly on " +
    told.words + ".", "margin:0 0 8px");
  for (const [title, kind] of [["strongest", "top"], ["at random", "random"]]) {
    make("p", view, title, "margin:6px 0 0;font-weight:bold");
    const list = make("ul", view, "", "margin:0;padding-left:20px");
    told[kind].forEach(c => row(list, c));
  }
};
const words = text => text.toLowerCase().split(/[^\p{L}\p{N}]+/u);
const has = (told, word) => !word || told.words.toLowerCase().includes(word) ||
  [...told.top, ...told.random].some(c => c[1].some(m =>
    (words(c[0].slice(0, m[1])).pop() + words(c[0].slice(m[1]))[0]).includes(word)));
const fill = latent => {
  const all = data[which.value], word = search.value.trim().toLowerCase();
  const ids = Object.keys(all).filter(i => has(all[i], word));
  pick.textContent = "";
  for (const i of ids) make("option", pick, i + ": " + all[i].words).value = i;
  if (ids.includes(latent)) pick.value = latent;
  count.textContent = ids.length + " of " + Object.keys(all).length + " latents" +
    (word ? " fire on a word with “" + word + "”." : " to look through.");
  show();
};
which.onchange = () => fill();
search.oninput = () => fill(pick.value);
pick.onchange = show;
fill("START");
})();
"""
