"""The pictures in the lesson's text. None trains: where it takes that, numbers are stored.

    python -m tools.pictures    train again: writes tools/pictures.json, and docs/film.png

Each returns its figure and what to add to its docstring, which is the picture's alternative text.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from evidence.common import pooled, rounded
from sae_lib import SparseAutoencoder, ToyModel, train_sae, train_toy_model
from sae_lib.lesson import plots
from sae_lib.lesson.exercises import mystery_activations
from sae_lib.lesson.plots import BLUE, FEATURES, GREEN, GREY, INK, LINE, ORANGE, SOFT, down, styled
from sae_lib.lesson.show import png
from sae_lib.metrics import cosine_similarity_matrix, fires, fvu, l0, match_features, recovered

NUMBERS = Path(__file__).with_suffix(".json")
GLIMPSES = NUMBERS.parents[1] / "evidence" / "data" / "glimpses.json"
IN_THE_PLANE = 0.999  # 2.6 degrees: in two dimensions 0.99 would often be met by chance
Picture = tuple[Figure, str]


def stored() -> dict:
    """The numbers of all pictures that take a training, by the names of their functions."""
    return json.loads(NUMBERS.read_text(encoding="utf-8"))


def _bare(ax: Axes, x: tuple, y: tuple, **more) -> None:
    """A diagram's axes: the same unit in x and y, nothing drawn."""
    ax.set(xlim=x, ylim=y, aspect="equal", **more)
    ax.axis("off")


def _arrow(ax: Axes, start, end, colour: str = INK, width: float = 3) -> None:
    """An arrow from (x, y) to (x, y), in the axes' units."""
    look = {"arrowstyle": "-|>,head_width=.28,head_length=.5", "color": colour, "lw": width}
    ax.annotate("", end, start, arrowprops=look | {"shrinkA": 0, "shrinkB": 0})


def _bars(ax: Axes, names, values, texts, colours, title: str) -> None:
    """A bar a line: its name on the left, and what to say of it on the right."""
    bars = ax.barh(names, values, color=colours, height=0.5)
    ax.bar_label(bars, texts, padding=4, color=SOFT)
    ax.set(xticks=(), xlim=(0, 1.3 * max(values)))
    ax.set_title(title, x=0)
    ax.tick_params(length=0, labelcolor=INK)
    ax.spines["bottom"].set_visible(False)
    ax.invert_yaxis()


@styled
def draw_sae() -> Picture:
    """Diagram: 5 activations, 20 latents of which two fire; their arrows add up to x̂, near x."""
    fig, ax = plt.subplots(figsize=(6.5, 3.4))
    on = {14: (FEATURES[1], (0.55, 1.3)), 4: (FEATURES[2], (1.2, -0.2))}
    for i in range(5):
        ax.plot(0, (2 - i) * 0.5, "o", ms=12, color=BLUE)
    for i in range(20):
        edge = on[i][0] if i in on else LINE
        ax.plot(2.8, (9.5 - i) * 0.19, "o", ms=6.5, mfc=edge if i in on else "white", mec=edge)
    _arrow(ax, (0.35, 0), (2.5, 0), INK, 2)
    origin = end = np.array([4.5, -0.75])
    for i, (colour, step) in on.items():
        ax.plot([2.9, end[0]], [(9.5 - i) * 0.19, end[1]], color=colour, lw=1, ls=":")
        _arrow(ax, end, end + step, colour)
        end = end + step
    x = end + np.array([0.36, 0.3])
    ax.plot(*np.transpose([x, end]), color=INK, lw=1.4, ls=(0, (2, 1.5)))
    for place, face, edge, size in (
        (origin, GREY, GREY, 6),
        (end, "white", BLUE, 9),
        (x, BLUE, BLUE, 9),
    ):
        ax.plot(*place, "o", ms=size, mfc=face, mec=edge, mew=2)
    for (left, low), text, weight, colour in (
        ((1.42, 0.14), "W_enc, b_enc\nthen ReLU", "normal", SOFT),
        ((4.5, -1.25), "b_dec", "normal", SOFT),
        ((end[0], end[1] - 0.5), "x̂", "normal", INK),
        ((x[0], x[1] + 0.16), "x", "normal", INK),
        ((end[0] + 1.1, end[1] - 0.1), "‖x − x̂‖²", "bold", INK),
        ((3.55, 1.7), "λ‖h‖₁", "bold", INK),
        ((0, -2.65), "x\n5 activations", "normal", INK),
        ((2.8, -2.65), "h\n20 latents", "normal", INK),
        ((5.6, -2.4), "x̂ = h W_dec + b_dec", "normal", INK),
    ):
        ax.text(left, low, text, ha="center", va="bottom", weight=weight, color=colour)
    _bare(ax, (-0.95, 8.0), (-2.7, 2.0))
    return fig, ""


@styled
def draw_packing() -> Picture:
    """Diagram: four features packed into two neurons; one input, unfolded into four bars."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(6.5, 3.1), width_ratios=(1.4, 1))
    values = (0.8, 0.55, 0.0, 0.0)
    angles = np.deg2rad(25 + 90 * np.arange(4))  # two opposite pairs: the smallest superposition
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    x = values @ directions
    left.axhline(0, color=LINE, lw=1)
    left.axvline(0, color=LINE, lw=1)
    for i, (value, direction, colour) in enumerate(zip(values, directions, FEATURES, strict=True)):
        _arrow(left, (0, 0), direction, colour)
        left.text(*1.2 * direction, f"f{i}", ha="center", va="center")
        if value:
            left.plot(*np.transpose([x, value * direction]), ":", color=GREY, lw=1.2)
    _arrow(left, (0, 0), x, INK, 2)
    left.text(*1.12 * x, "x", ha="center", va="center", weight="bold")
    left.text(1.5, -0.08, "neuron 0", ha="right", va="top", color=SOFT)
    left.text(0.06, 1.45, "neuron 1", va="top", color=SOFT)
    title = "Packed: each neuron\nanswers to all four"
    _bare(left, (-1.35, 1.5), (-1.3, 1.45), anchor="N", title=title)
    names, texts = [f"latent {i} reads f{i}" for i in range(4)], [f"{value:g}" for value in values]
    _bars(right, names, values, texts, FEATURES, "Unfolded: one latent\nfor each feature")
    return fig, ""


@styled
def draw_price() -> Picture:
    """Diagram: one vector rebuilt by its own direction at a price of 1, or by two for 1.41."""
    fig, axes = plt.subplots(1, 2, figsize=(6.5, 2.4))
    for ax, parts, title in (
        (axes[0], [(1.0, 0.0)], "By its own direction:\nactivity 1"),
        (axes[1], [(0.5, 0.5), (0.5, -0.5)], "By two others, at ±45°:\n0.71 + 0.71 = 1.41"),
    ):
        start = np.zeros(2)
        ax.plot([0, 1], [0, 0], ":", color=GREY, lw=1.2)
        for part in np.array(parts):
            _arrow(ax, start, start + part, ORANGE)
            length = f"{np.hypot(*part):.2f}".removesuffix(".00")
            x, y = start + part / 2
            ax.text(x, y + (0.13 if part[1] else 0.05), length, ha="center")
            start = start + part
        ax.plot(0, 0, "o", color=GREY, ms=7)
        ax.plot(1, 0, "o", color=BLUE, ms=10)
        ax.text(1.07, 0, "x", va="center", weight="bold")
        _bare(ax, (-0.08, 1.2), (-0.1, 0.62), title=title)
    return fig, ""


@styled
def draw_leak() -> Picture:
    """Diagram: what a latent reads of four features when one at a time is on."""
    cosine, own, near = stored()["draw_leak"], FEATURES[0], FEATURES[3]
    fig, (left, right) = plt.subplots(1, 2, figsize=(6.5, 2.8), width_ratios=(1, 1.25))
    tip = np.array([cosine, np.sqrt(1 - cosine**2)])
    left.plot([cosine, cosine], [0, tip[1]], ":", color=GREY, lw=1.2)
    _arrow(left, (0, 0), (1, 0), own)
    _arrow(left, (0, 0), tip, near)
    left.plot([0, cosine], [0, 0], color=near, lw=7, solid_capstyle="butt")
    left.text(1.04, 0, "the latent's\nown feature", va="center")
    left.text(tip[0] + 0.05, tip[1], "a neighbour", va="center")
    left.text(cosine / 2, -0.07, down(cosine), ha="center", va="top", weight="bold")
    title = "Two of 15 features\nin five neurons"
    _bare(left, (-0.06, 1.7), (-0.2, 1.05), anchor="NW", title=title)
    names = ["its own", "at a right angle", "the opposite", "a neighbour"]
    texts = ["1", "0", "0, cut off by the ReLU", down(cosine)]
    title = "What the latent reads\nof one feature at a time"
    _bars(right, names, [1, 0, 0, cosine], texts, [own, own, own, near], title)
    said = [f"{name}: {text}" for name, text in zip(names, texts, strict=True)]
    return fig, "; ".join(said) + "."


@styled
def draw_film() -> Picture:
    """Four features in two neurons, and eight latents of an SAE at four moments of training."""
    numbers, said = stored()["draw_film"], []
    truth = torch.tensor(numbers["truth"])
    fig, axes = plt.subplots(1, 4, figsize=(6.5, 2.4), layout="none")
    fig.subplots_adjust(0.005, 0, 0.995, 0.81, wspace=0.03)
    for ax, frame in zip(axes, numbers["frames"], strict=True):
        cosines = cosine_similarity_matrix(torch.tensor(frame["W_dec"]), truth)
        found = match_features(cosines).cosine >= IN_THE_PLANE
        ax.scatter(*np.transpose(numbers["dots"]), s=3, color="#8d97a0", alpha=0.5, linewidths=0)
        for j, (x, y) in enumerate(numbers["truth"]):
            look = {"color": FEATURES[j], "mfc": FEATURES[j] if found[j] else "white"}
            ax.plot([0, 1.1 * x], [0, 1.1 * y], lw=8, alpha=0.25, solid_capstyle="round", **look)
            ax.plot(-1.05 + 0.28 * j, -1.62, "o", ms=8, mew=1.5, **look)
        for (x, y), alive, to in zip(frame["W_dec"], frame["alive"], cosines.numpy(), strict=True):
            hit = to.max() >= IN_THE_PLANE
            colour = FEATURES[to.argmax()] if hit else INK if alive else LINE
            ax.plot([0, x], [0, y], color=colour, lw=2.6 if hit else 1.3, zorder=2 + alive + hit)
            ax.plot(x, y, "o", color=colour, ms=7 if hit else 5, zorder=2 + alive + hit)
        ax.text(0.12, -1.62, f"{found.sum()} of 4", va="center_baseline")
        first, second = frame["name"].split("\n")
        ax.text(0, 1.03, second, transform=ax.transAxes, color=SOFT)
        _bare(ax, (-1.25, 1.25), (-1.8, 1.2), title=f"{first}\n")
        said.append(f"{first}, {second}: {found.sum()} of 4 found")
    return fig, "; ".join(said) + "."


@styled
def draw_first_minute() -> Picture:
    """Sorted cosines of 20 latents with ten features, faded where nothing is found."""
    numbers, said = stored()["draw_first_minute"], []
    truth = torch.tensor(numbers["truth"])
    fig, axes = plt.subplots(1, 3, figsize=(6.5, 4.2))
    for ax, frame in zip(axes, numbers["frames"], strict=True):
        W_dec = torch.tensor(frame["W_dec"])
        cosines = cosine_similarity_matrix(W_dec, truth)
        plots.plot_sorted(cosines, ax=ax, numbers=2)  # there is no room for numbers
        found, state = recovered(W_dec, truth), f"error {frame['fvu']:.1%}, L0 {frame['l0']:.1f}"
        ax.text(0, 1.02, state, transform=ax.transAxes, size=11, color=SOFT)
        ax.set(xticks=(), yticks=(), title=f"{frame['name']}\n", ylabel="")
        look = {"color": INK, "weight": "bold"} if found else {"color": GREY}
        ax.set_xlabel(found, size=34, labelpad=8, **look)
        said.append(f"{frame['name']}: {state}, {found} found")
    axes[0].set_ylabel("20 latents")
    fig.supxlabel("of ten features found", fontsize=12, color=SOFT)
    return fig, "; ".join(said) + "."


@styled
def draw_broken_runs() -> Picture:
    """Error, L0 and decoder norm of four faulty runs, a column each; a healthy one dotted."""
    runs = stored()["draw_broken_runs"]
    healthy, said = runs.pop("healthy"), []
    fig, axes = plt.subplots(3, len(runs), figsize=(6.5, 5.2), sharex=True, sharey="row")
    for column, (name, run) in zip(axes.T, runs.items(), strict=True):
        column[0].set_title(f"Run {name}")
        for ax, curve in zip(column, ("error", "l0", "norm"), strict=True):
            ax.plot(np.add(healthy["step"], 1), healthy[curve], ":", color=GREY)
            ax.plot(np.add(run["step"], 1), run[curve], color=BLUE)
            ax.plot(run["step"][-1] + 1, run[curve][-1], "o", color=BLUE, ms=5)
            ax.set(xscale="log", xticks=(1, 1000))
            ax.xaxis.set_major_formatter("{x:,.0f}")
        end = {curve: values[-1] for curve, values in run.items()}
        said.append(f"{name} ends at batch {end['step'] + 1}: error {end['error']:.1g}, ")
        said[-1] += f"L0 {end['l0']:.0f}, norm {end['norm']:.1f}"
    axes[0, 0].set(ylabel="error (log)", yscale="log")
    axes[1, 0].set(ylabel="L0 (log)", yscale="log")
    axes[1, 0].set_yticks((1, 3, 10), ("1", "3", "10"))
    axes[1, 0].minorticks_off()
    axes[2, 0].set(ylabel="decoder norm", ylim=(0, None))
    fig.supxlabel("training batch (log); dotted: a healthy run", fontsize=12, color=SOFT)
    fig.align_ylabels()
    return fig, "; ".join(said) + "."


@styled
def draw_hole() -> Picture:
    """Absorption: why A's latent may fall silent where B is on, and in how many SAEs it does."""
    fired = pooled("absorption")[("λ = 0.03",)]
    inputs = {"A alone": "A alone", "A and C": "A and an independent C", "A and B": "A and B"}
    fig, (left, right) = plt.subplots(1, 2, figsize=(6.5, 2.4), width_ratios=(1, 2.2))
    for corner in ((1, 0), (0, 1)):
        _arrow(left, (0, 0), corner, LINE, 2)
        _arrow(left, corner, (1, 1), LINE, 2)
    _arrow(left, (0, 0), (1, 0), BLUE)
    _arrow(left, (0, 0), (1, 1), ORANGE)
    for x, y, text in ((1.06, 0, "A"), (-0.08, 1, "B"), (1.08, 1, "A + B")):
        left.text(x, y, text, va="center", ha="left" if x > 0 else "right")
    _bare(left, (-0.3, 1.75), (-0.1, 1.15), anchor="NW")
    left.set_title("By A and by B: 2\nStraight there: 1.41", fontweight="normal")
    silent = [int((fired[f"A's fires on {what}"] < 0.5).sum()) for what in inputs.values()]
    n = len(fired["recovered"])
    texts = [f"fires in {n - m}" for m in silent]
    title = f"A's latent is silent on A and B\nin {silent[-1]} of {n} SAEs"
    _bars(right, list(inputs), [n - m for m in silent], texts, BLUE, title)
    listed = ", ".join(f"{name}: {m}" for name, m in zip(inputs, silent, strict=True))
    return fig, f"Silent on most inputs, of {n} SAEs: {listed}."


@styled
def draw_choosing_k() -> Picture:
    """20 features at right angles, 5 on at a time: what was found, and three measures, by k."""
    groups = {k: of for (case, k), of in pooled("choosing_k").items() if case.startswith("20")}
    places, found = range(len(groups)), [of["recovered"].mean() / 20 for of in groups.values()]
    measures = {"fvu": ("unexplained: least", min), "agreement": ("two seeds agree: most", max)}
    measures["mean abs cosine"] = "mean |cosine|: least", min
    fig, axes = plt.subplots(2, 2, figsize=(6.5, 4.4), sharex=True)
    look = {"ms": 5, "clip_on": False, "zorder": 3}
    axes[0, 0].plot(places, found, "-o", color=GREEN, **look)
    axes[0, 0].set_title("share really found", fontweight="normal")
    for ax, (column, (name, best)) in zip(axes.flat[1:], measures.items(), strict=True):
        means = [of[column].mean() for of in groups.values()]
        ax.plot(places, means, "-o", color=BLUE, **look)
        at = means.index(best(means))
        ring = {"mfc": "none", "ms": 15, "mew": 2}
        ax.plot(at, means[at], "o", color=ORANGE, **look | ring)
        verdict = "right" if found[at] >= 0.99 else "wrong"
        ax.set_title(f"{name} at {[*groups][at]}, {verdict}", fontweight="normal")
        if column == "agreement":  # 0.92 and 0.95 look alike
            for place, share in zip(places, means, strict=True):
                ax.text(place, share - 0.23, f"{share:.2f}".lstrip("0"), ha="center", color=SOFT)
        if column != "mean abs cosine":
            noise = [of[f"null {column}"].mean() for of in groups.values()]
            ax.plot(places, noise, ":", color=GREY, label="on noise", clip_on=False)
            ax.legend(handlelength=1.5, frameon=False)
    for ax in axes.flat:
        for place in np.flatnonzero(np.array(found) >= 0.99):  # a band where all are found
            ax.axvspan(place - 0.5, place + 0.5, color=GREEN, alpha=0.15, linewidth=0)
        ax.set(ylim=(0, 1.15 * ax.dataLim.y1), xticks=places, xticklabels=groups)
        ax.set_xlabel("k" if ax in axes[1] else "")
    fig.suptitle("Circled: the k that each measure would choose", x=0.01, ha="left")
    said = "The share found, the unexplained share, the agreement of two seeds, the mean |cosine|."
    return fig, said


@styled
def draw_glimpses() -> Picture:
    """Three short texts, shaded where one latent of a language model's SAE fires on them."""
    texts = json.loads(GLIMPSES.read_text(encoding="utf-8"))["texts"]
    strongest = max(act for text in texts for _, act in text["tokens"])
    fig, ax = plt.subplots(figsize=(6.5, 1.9))
    line, said = 0.0, []
    for text in texts:
        column = 0
        for token, act in text["tokens"]:
            if column > 58 and token.startswith(" "):  # between words
                line, column = line + 1, 0
            token = token if column else token.lstrip()
            box = (column, line - 0.62), len(token), 0.86
            ax.add_patch(Rectangle(*box, color=ORANGE, alpha=0.85 * act / strongest, lw=0))
            ax.text(column, line, token, family="monospace", fontsize=11, color=INK)
            column += len(token)
        words = "".join(token for token, _ in text["tokens"]).strip()
        said.append(f"“{words}”: {max(act for _, act in text['tokens']):.2f} at most")
        line += 1.7
    ax.set(xlim=(0, 69), ylim=(line - 1, -1))
    ax.axis("off")
    return fig, "; ".join(said) + "."


# --- the numbers ----------------------------------------------------------------------------


def _trained(n_features: int, n_hidden: int, sparsity: float = 0.9) -> tuple:
    """A toy model's directions, and activations that it makes."""
    model = ToyModel(n_features, n_hidden, sparsity)
    train_toy_model(model)
    return model.feature_directions, model.encode(model.sample_features(50_000, seed=1)).detach()


@torch.no_grad()
def _still(name: str, sae: SparseAutoencoder, x: torch.Tensor) -> dict:
    """What a picture needs of an SAE as it is now."""
    x_hat, h = sae(x)
    numbers = {"fvu": fvu(x, x_hat), "l0": l0(h), "alive": fires(h).any(dim=0).int()}
    return {"name": name, "W_dec": sae.W_dec.clone(), **numbers}


def film() -> dict:
    """Eight latents in the plane: at first, after 1,000 batches without a price, and with one.

    The still in between is from the first batch at which half of the features are found.
    """
    truth, x = _trained(4, 2)
    sae = SparseAutoencoder(2, 8, seed=1)
    frames = [_still("at the start\n8 latents", sae, x)]
    train_sae(sae, x, l1_coefficient=0.0, n_steps=1_000, seed=1)
    frames.append(_still("price off\nno error left", sae, x))
    history = train_sae(sae, x, l1_coefficient=0.02, n_steps=1_000, seed=1, n_logged=1_000)
    last = _still("price on\nfound", sae, x)
    half = [recovered(W_dec, truth, IN_THE_PLANE) >= 2 for W_dec in history.W_dec].index(True)
    W_dec, name = history.W_dec[half], f"price on\nfor {history.step[half] + 1} batches"
    moved = (W_dec - last["W_dec"]).norm(dim=1) > 0.01  # later, so it still fired
    then = {"name": name, "W_dec": W_dec, "alive": last["alive"] | moved}
    return {"truth": truth, "dots": x[x.norm(dim=1) > 0.05][:400], "frames": [*frames, then, last]}


def first_minute() -> dict:
    """One SAE before training, trained without a price on activity, and trained on with one."""
    truth, x = _trained(10, 5)
    sae = SparseAutoencoder(5, 20, seed=1)
    frames = [_still("before", sae, x)]
    for name, price, n_steps in (("price off", 0.0, 3_000), ("price on", 0.01, 1_000)):
        train_sae(sae, x, l1_coefficient=price, n_steps=n_steps, seed=1)
        frames.append(_still(name, sae, x))
    return {"truth": truth, "frames": frames}


def leak() -> float:
    """The largest cosine between two of 15 features in five neurons, each rarely on."""
    truth, _ = _trained(15, 5, 0.95)
    return (cosine_similarity_matrix(truth, truth) - torch.eye(15)).max().item()


class WrongAxis(SparseAutoencoder):
    """Columns of W_dec set to length 1, in place of rows."""

    @torch.no_grad()
    def normalize_decoder_(self) -> None:
        self.W_dec /= self.W_dec.norm(dim=0, keepdim=True)


def broken_runs() -> dict[str, dict[str, list]]:
    """A healthy run and one for each of exercises.FAULTS: its curves over the logged batches."""

    def run(kind: type = SparseAutoencoder, l1_coefficient: float = 0.15, **settings) -> dict:
        settings |= {"l1_coefficient": l1_coefficient, "n_steps": 800, "n_logged": 40}
        history = train_sae(kind(5, 32), mystery_activations(), **settings)
        curves = {"step": history.step, "error": history.reconstruction, "l0": history.l0}
        return curves | {"norm": [W_dec.norm(dim=1).mean() for W_dec in history.W_dec]}

    runs = {"healthy": run(), "A": run(normalize_decoder=False)}
    early = sum(step <= 60 for step in runs["healthy"]["step"])
    runs["B"] = {name: curve[:early] for name, curve in runs["healthy"].items()}
    return runs | {"C": run(WrongAxis), "D": run(l1_coefficient=0.001)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = {f"draw_{of.__name__}": rounded(of()) for of in (film, first_minute, leak, broken_runs)}
    lines = (f"{json.dumps(name)}: {json.dumps(numbers)}" for name, numbers in made.items())
    NUMBERS.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
    NUMBERS.parents[1].joinpath("docs", "film.png").write_bytes(png(draw_film()[0])[0])
