"""Write what can be shared: docs/latents.html, and the glimpse of one latent for the lesson.

    .venv-beyond/bin/python -m beyond.real_model.static_page

docs/latents.html: forty latents, their cards and pushed sentences, in one file.
evidence/data/glimpses.json: three short texts, and what one latent fired on.
"""

import json
from pathlib import Path

import numpy as np
import torch

from beyond.real_model import cards, latents
from beyond.real_model.study import Study

ROOT = Path(__file__).resolve().parents[2]
PAGE, GLIMPSES = ROOT / "docs" / "latents.html", ROOT / "evidence" / "data" / "glimpses.json"
PROMPTS = ("The film is", "My brother said that")
HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Forty latents of a small language model</title>
<body style="max-width:860px;margin:0 auto;padding:16px;font:16px/1.5 system-ui,sans-serif;
background:#ffffff;color:#1a1a1a">
<h1>Forty latents of a small language model</h1>
"""
INTRO = """<p>A small language model, SmolLM2-135M-Instruct, reads {n_texts} plots and lines of
reviews of films. We stop it after {layer} of its 30 layers, and train a TopK sparse autoencoder
with {d_sae} latents on the 576 numbers that it holds there for each token. Each latent can be
opened below. <span style="background:{colour}">Coloured</span> is what it fired on, the darker the
stronger. Then comes what the model writes while the latent is pushed; coloured there is each word
that the push made at least ten times likelier.</p>
<p>The first twelve fit a list of words best, of {n_lists} lists that others wrote (parts of speech
and topics). The others were drawn at random, and nobody picked them. Read those before you believe
the first twelve.</p>
"""


def page(study: Study) -> str:
    """The whole page; needs the trained SAEs of seeds 0 and 1."""
    n_train, W_dec = study.activations.n_train, study.saes["trained", 0].W_dec
    scores = latents.f1_scores(study.codes["trained", 0], list(study.labels.values()), n_train)
    best, f1 = scores.best_latents()
    fitting = list(dict.fromkeys(best[np.argsort(-f1)].tolist()))[:12]
    often = np.flatnonzero(np.diff(study.codes["trained", 0].indptr) >= 30)
    often = np.setdiff1d(often, fitting)
    at_random = np.random.default_rng(2).choice(often, 28, replace=False).tolist()
    chosen, nothing = fitting + at_random, torch.zeros_like(study.activations.mean)
    written = {}
    for prompt in PROMPTS:
        written[prompt] = study.write(prompt, {"as it is": nothing}, 24)
        for part in np.array_split(chosen, 5):  # a few at a time: the logits are large
            pushes = {i: study.push(W_dec[i]) for i in part.tolist()}
            written[prompt] |= study.write(prompt, pushes, 24)

    def shown(latent: int) -> str:
        lines = (cards.writing(p, {"pushed": written[p][latent]}) for p in PROMPTS)
        return cards.box(study.card(latent, *lines))

    intro = INTRO.format(
        n_texts=f"{len(study.texts):,}",
        layer=study.layer,
        d_sae=f"{study.d_sae:,}",
        n_lists=len(study.labels),
        colour=cards.LEVELS[2],
    )
    parts = [HEAD, intro, "<p>Without a push it writes:</p>"]
    parts += [cards.writing(p, {"as it is": written[p]["as it is"]}) for p in PROMPTS]
    parts += ["<h2>Twelve that fit a list of words</h2>", *map(shown, fitting)]
    parts += ["<h2>Twenty-eight drawn at random</h2>", *map(shown, at_random)]
    return "\n".join(parts) + "</body></html>\n"


def glimpses(study: Study) -> dict:
    """Three texts, of ours but for the second, and the latent that best tells what is not English.

    tokens: [text, strength] for each piece of the text, in order; joined they are the text.
    """
    latent, f1 = study.best_latent(study.not_english)
    film = next(text for text in study.texts if "Merci Pour le Chocolat" in text)
    start = film.index("such a mesm")
    texts = [
        "Je ne sais pas pourquoi, mais ce film est une belle surprise.",
        film[start : film.index(" to be", start)],
        "I do not know why, but this film is a lovely surprise.",
    ]
    shown = []
    for text in texts:
        where = (study.model, study.layer, study.saes["trained", 0], study.activations)
        places, acts = cards.own_acts(*where, text)
        ends = [end for _, end in places]
        pieces = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        strengths = [round(value, 2) for value in acts[:, latent].tolist()]
        shown.append([*map(list, zip(pieces, strengths, strict=True))])
    pushes = {"as it is": torch.zeros_like(study.activations.mean)}
    pushes["pushed"] = study.push(study.saes["trained", 0].W_dec[latent])
    written = study.write("The film is", pushes, 16)
    acts, foreign = study.acts(latent), study.not_english
    return {
        "model": "SmolLM2-135M-Instruct",
        "layer": study.layer,
        "latent": latent,
        "label": "this is not English",
        "fires on, share of tokens": round(float((acts > 0).mean()), 4),
        "share of its strength in texts that are not English": round(
            float(acts[foreign].sum() / acts.sum()), 2
        ),
        "share of tokens in such texts": round(float(foreign.mean()), 4),
        "F1 on texts set aside": round(f1, 2),
        "texts": [{"tokens": tokens} for tokens in shown],
        "prompt": "The film is",
        "written": {name: "".join(piece for piece, _ in text) for name, text in written.items()},
    }


def main() -> None:
    study = Study()
    study.make("trained", 0)
    GLIMPSES.write_text(json.dumps(glimpses(study), ensure_ascii=False) + "\n", "utf-8")
    study.make("trained", 1)
    PAGE.write_text(page(study), encoding="utf-8")
    for path in (GLIMPSES, PAGE):
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
