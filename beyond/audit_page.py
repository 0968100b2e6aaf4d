"""The page of an audit: one HTML file with its pictures in it, for the screen and for paper."""

import base64
import html
import io
from collections.abc import Sequence
from textwrap import shorten

import numpy as np
from matplotlib.figure import Figure

# kind: (name on the page, colour, line)
LOOKS = {
    "data": ("your data", "#0b5fa5", "-"),
    "look-alike": ("Gaussian look-alike", "#c4500a", "-"),
    "shuffled": ("columns shuffled", "#777777", "--"),
    "frozen decoder": ("frozen decoder", "#777777", ":"),
    "PCA": ("PCA", "#7a4fa3", "--"),
    "k-means": ("k-means", "#7a4fa3", ":"),
}
STYLE = """
body { font: 17px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 46rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; } h2 { margin: 2.2rem 0 .4rem; }
.verdict { font-size: 1.15rem; border-left: 5px solid #0b5fa5; padding-left: 1rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(13.5rem, 1fr)); gap: 1rem; }
figure { margin: 0; break-inside: avoid; } figure img { width: 100%; }
figcaption { font-size: .85rem; line-height: 1.35; } figcaption b { display: block; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td, th { padding: .2rem .5rem; text-align: right; vertical-align: top; }
td:first-child, th:first-child { text-align: left; padding-left: 1.2rem; }
tr.head th { padding: .7rem 0 .2rem; border-bottom: 1px solid #bbb; }
.latent { break-inside: avoid; margin: 0 0 .9rem; } .latent b { display: block; }
.latent ol { margin: 0; padding-left: 1.4rem; overflow-wrap: anywhere; font-size: .92rem; }
.note { color: #555; font-size: .9rem; }
@media print { body { font-size: 10.5pt; margin: 0; max-width: none; } @page { margin: 16mm; }
  .plots { grid-template-columns: repeat(3, 1fr); } h2 { break-after: avoid; }
  table { break-inside: avoid; } .latents { font-size: 9pt; } }
"""


def percent(share: float) -> str:
    """0.134 -> "13 %", 0.0041 -> "0.4 %", with a space that no line breaks at."""
    return f"{100 * share:.{1 if 0.0005 <= share < 0.0095 else 0}f}\N{NO-BREAK SPACE}%"


def verdict(table: dict[int, dict], k: int, less_left: bool, more_again: bool, n_steps: int) -> str:
    """What the numbers at this k mean, in words, and what they don't."""
    data, noise = table[k]["data"], table[k]["look-alike"]
    seen = (
        f"With {k} latent{'s' if k > 1 else ''} a row, the SAE leaves "
        f"{percent(np.mean(data['unexplained']))} of the variance unexplained here, and "
        f"{percent(np.mean(noise['unexplained']))} on noise with the same mean and covariance. Of "
        f"the directions that fire often, each seed finds {percent(data['again'])} again in the "
        f"other; on the noise it is {percent(noise['again'])}. "
    )
    if less_left and more_again:
        return seen + (
            "So there is sparse structure beyond covariance. Nothing here shows that a latent "
            "means something, or that its direction is one your data are made of. When k is too "
            "low, two seeds agree on sums of features. So read the latents below."
        )
    if less_left:
        return seen + (
            "So your rows aren't plain noise, but this SAE doesn't pin down what they are made "
            "of. Another seed would show you other latents. Don't read much into these; try more "
            "rows, a longer training or another k."
        )
    tried = f"we only tried k = {', '.join(map(str, table))}, for {n_steps:,} batches each."
    if more_again:
        return seen + (
            "So its seeds find some directions again, but they don't leave less than on the noise "
            "by more than they differ among themselves. That's often an SAE that was trained too "
            f"short: {tried} Give it more minutes before you believe or dismiss its latents."
        )
    return seen + (
        "So the SAE does nothing here that it couldn't do on noise, and its latents show you "
        "nothing but mean and covariance. That doesn't prove that there is nothing to find: "
        f"{tried}"
    )


def page(audit) -> str:
    """The page of an `Audit`, whole."""
    less_left, more_again = audit.better
    title = "There is sparse structure beyond covariance"
    if less_left and not more_again:
        title = "It beats noise, but its seeds disagree"
    elif more_again and not less_left:
        title = "Its seeds agree more than on noise, but they rebuild no better"
    elif not less_left:
        title = "It does no better than on noise"
    settings = audit.settings
    left_out = settings["left out"]
    did = [
        *audit.looks,
        f"The rows were centred and divided by {audit.scale:.4g}, so that their root mean square "
        "length is 1. The saved SAE has both folded in: give it your rows as they are. Mean and "
        "scale stand in audit.json.",
        f"We trained TopK SAEs of {settings['d_sae']:,} latents for {settings['n_steps']:,} "
        f"batches of 256 on {settings['rows']:,} rows. All numbers come from "
        f"{settings['rows held out']:,} others. It took {settings['minutes']} minutes.",
        f"To stay in time we left out: {'; '.join(left_out)}." if left_out else "",
    ]
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE}</style></head><body>
<p class="note">Is an SAE on this matrix worth anything?</p>
<h1>{title}</h1>
<p class="verdict">{html.escape(audit.verdict)}</p>
<div class="plots">{"".join(plots(audit.table))}</div>
<h2>All numbers</h2>
{numbers(audit.table, settings["centres"])}
<h2>How to read this</h2>
<p>The <b>look-alike</b> is noise with the mean and the covariance of your data. An SAE rebuilds a
good deal of it, too, so only what it does better on your data counts. It has to be better in both
ways: each seed leaves less unexplained, by more than two seeds differ and by a tenth at least; and
the seeds find at least a tenth more of their directions again.</p>
<p>The grey and violet lines decide nothing. Shuffled columns flatter any data whose columns are
correlated, plain noise among them. A decoder that stays random can rebuild as well as one that
found the features. PCA and k-means tell you what you get without an SAE.</p>
<h2>What we did</h2>
<ul>{"".join(f"<li>{html.escape(one)}</li>" for one in did if one)}</ul>
<h2>{len(audit.latents)} latents, drawn at random</h2>
<p>They come from the SAE with k = {audit.k}, the one in the folder. Each shows the rows on which it
fires most. Nobody picked them, so judge the SAE by these.</p>
<div class="latents">{"".join(map(one_latent, audit.latents))}</div>
</body></html>
"""


def plots(table: dict[int, dict]) -> list[str]:
    decide = ("data", "look-alike")
    return [
        plot(table, "unexplained", decide, "Left unexplained", "Lower is better. This decides."),
        plot(table, "again", decide, "Found again", "By the other seed. This decides."),
        plot(table, "unexplained", LOOKS, "Against every control", "Left unexplained, again."),
        plot(table, "l0", decide, "L0", "Latents that fire on a row."),
        plot(table, "dead", decide, "Dead latents", "Share that never fires."),
        plot(table, "cosine", decide, "Mean |cosine|", "Between two decoder rows."),
    ]


def plot(table: dict, name: str, kinds: Sequence[str], title: str, words: str) -> str:
    """One small plot against k; where there are two seeds, a dot for each and a line between."""
    figure = Figure(figsize=(2.9, 2.7 if len(kinds) > 2 else 2.3), layout="constrained")
    axes = figure.subplots()
    ks = list(table)
    for kind in kinds:
        if kind not in table[ks[0]]:
            continue
        label, colour, line = LOOKS[kind]
        values = [np.atleast_1d(table[k][kind][name]) for k in ks]
        axes.plot(ks, [v.mean() for v in values], line, color=colour, lw=1.5, label=label)
        for k, dots in zip(ks, values, strict=True):
            axes.plot([k] * len(dots), dots, ".", color=colour, ms=5)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.set_xlabel("k", fontsize=9)
    axes.set_ylim(0, None if name == "l0" else max(axes.get_ylim()[1], 0.05))
    if name in ("unexplained", "again", "dead"):
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.0f} %")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower left", ncols=2, fontsize=7.5, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    source = base64.b64encode(file.getvalue()).decode()
    caption = f"<figcaption><b>{title}</b>{words}</figcaption>"
    alt = html.escape(f"{title} against k; the numbers are in the table below.")
    return f'<figure>{caption}<img alt="{alt}" src="data:image/svg+xml;base64,{source}"></figure>'


def numbers(table: dict[int, dict], n_centres: int) -> str:
    """Everything that was measured: a column for each k."""
    rest = {"PCA": "PCA, k components", "k-means": f"k-means, {n_centres:,} centres, one a row"}
    blocks = {
        "Left unexplained, each seed": ("unexplained", percent, list(LOOKS)),
        "Found again by the other seed": ("again", percent, ["data", "look-alike"]),
        "… counted from a cosine of": ("again at", "{:.2f}".format, ["look-alike"]),
        "Agreement, cosine of 0.99 or more": ("agreement", percent, ["data", "look-alike"]),
        "L0": ("l0", "{:.2f}".format, ["data", "look-alike"]),
        "Dead latents": ("dead", percent, ["data", "look-alike"]),
        "Mean |cosine| of two decoder rows": ("cosine", "{:.2f}".format, ["data", "look-alike"]),
    }
    head = "".join(f"<th>k\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{k}</th>" for k in table)
    lines = [f"<tr><th></th>{head}</tr>"]
    for title, (name, words, kinds) in blocks.items():
        lines.append(f'<tr class="head"><th colspan="{1 + len(table)}">{title}</th></tr>')
        for kind in kinds:
            rows = [row[kind] for row in table.values() if kind in row]
            # seeds side by side where their spread matters
            both = [row[name] if name == "unexplained" else [np.mean(row[name])] for row in rows]
            cells = [", ".join(map(words, seeds)) for seeds in both]
            if cells:
                cells = "".join(f"<td>{cell}</td>" for cell in cells)
                lines.append(f"<tr><td>{rest.get(kind, LOOKS[kind][0])}</td>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def one_latent(latent: dict) -> str:
    """A latent and its top rows: their labels, or their numbers if there are none."""
    head = f"<b>Latent {latent['latent']:,} fires on {percent(latent['fires'])} of the rows</b>"
    if latent["top"] == latent["rows"]:
        return f'<div class="latent">{head}Rows {", ".join(map(str, latent["top"]))}</div>'
    short = (shorten(words, 160, placeholder=" …") for words in latent["top"])
    rows = "".join(f"<li>{html.escape(words)}</li>" for words in short)
    return f'<div class="latent">{head}<ol>{rows}</ol></div>'
