"""Figures take arrays, return what they promise, and say only what is true of what is drawn."""

import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.text import Text

from evidence.common import pooled
from sae_lib.lesson import plots, show
from tools import pictures

TRUTH = {"variance": 1.0, "oracle_loss": 0.1, "true_l0": 1.0, "final_l0": 1.44}
PICTURES = sorted(name for name in vars(pictures) if name.startswith("draw_"))


def a_history(steps=(0, 1, 9), error=(9.0, 8, 7), price=(6.0, 5, 4), l0=(2.0, 0.75, 0.5)):
    """What training would have logged, with numbers of our own."""
    return SimpleNamespace(step=steps, reconstruction=error, sparsity=price, l0=l0)


def every_figure(n: int):
    """All figures, of n things where that makes sense."""
    h, ones = a_history(range(n), *np.ones((3, n))), np.ones(n)
    yield plots.plot_matrix(np.eye(n, 7), numbers=0, marked=[(0, 0)])
    yield plots.plot_matrix(np.eye(7, n), yticks=list("abcdefg"))
    yield plots.plot_sorted(torch.eye(7)[:, :n], torch.eye(7))
    yield plots.plot_sorted(torch.eye(n, 7).double())
    yield plots.plot_chance(np.full((2, n), 0.7), ones)
    yield from plots.plot_training(h, np.arange(n), n, **TRUTH)
    yield plots.plot_directions(np.eye(n, 3) + 1, {"a": np.ones((n, 3)), "b": np.ones((n, 3))})
    yield plots.plot_firing(ones, ones, ones > 2)
    yield plots.plot_bars({str(i): [i] for i in range(n)}, n)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def points(line) -> list[tuple[float, float]]:
    return list(zip(*map(np.ndarray.tolist, map(np.asarray, line.get_data())), strict=True))


def title(ax) -> str:
    return ax.get_title("left")


def numbers(text: str) -> list[float]:
    """The numbers that a title says."""
    found = re.findall(r"[−-]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)", text)
    return [float(number.replace(",", "").replace("−", "-")) for number in found]


def words(fig) -> list[str]:
    return [text.get_text() for text in fig.findobj(Text) if text.get_text().strip()]


def fits_a_page(fig) -> bool:
    """No wider than the page, no small text, nothing cut at the edge: all around it is white."""
    fig.canvas.draw()  # a warning would fail
    pixels = np.asarray(fig.canvas.buffer_rgba())[..., :3]
    cut = any((edge < 255).any() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
    sizes = [text.get_fontsize() for text in fig.findobj(Text) if text.get_text().strip()]
    return fig.get_figwidth() <= 6.5 and min(sizes) >= 11 and not cut


@pytest.mark.parametrize("n", [1, 3])
def test_every_figure_even_of_one_thing_fits_a_page(n):
    for i, shown in enumerate(every_figure(n)):
        assert fits_a_page(shown.figure), i
        plt.close(shown.figure)


def test_a_dark_style_set_by_the_reader_changes_no_pixel():
    def drawn():
        return [show.png(shown.figure) for shown in every_figure(1)]

    light = drawn()
    with plt.style.context("dark_background"):
        assert drawn() == light


def test_colours_that_stand_side_by_side_differ_in_lightness():
    def grey(colours):
        return np.sort(np.array([plots.plt.matplotlib.colors.to_rgb(c) for c in colours]) @ luma)

    luma = (0.3, 0.6, 0.1)
    blue, white, red = plots.DIVERGING([0.0, 0.5, 1.0])[:, :3] @ luma
    assert blue - red > 0.25 and white > 0.995
    assert np.diff(grey(plots.FEATURES)).min() > 0.12
    assert np.diff(grey([plots.BLUE, plots.ORANGE, plots.LINE])).min() > 0.12


def test_a_matrix_is_coloured_from_minus_one_to_one_and_rounded_towards_zero():
    matrix = [[0.96, 0.3, 0.99], [-0.5, -0.995, 0.989]]
    ax = plots.plot_matrix(matrix, numbers=0.5, marked=[(1, 2)])
    assert ax.images[0].get_array().tolist() == matrix
    assert ax.images[0].get_clim() == (-1, 1)
    said = {text.get_position(): text.get_text() for text in ax.texts}  # (column, row)
    assert said == {(0, 0): ".96", (2, 0): "1", (0, 1): "−.50", (1, 1): "−1", (2, 1): ".98"}
    assert ax.patches[0].get_bbox().bounds == (1.5, 0.5, 1, 1)


def test_of_what_is_huge_the_figures_show_some_and_say_so():
    large = np.eye(300)
    ax = plots.plot_sorted(large)
    assert ax.images[0].get_array().shape == (100, 100) and "300" in ax.texts[0].get_text()
    assert title(ax).startswith("300 of 300") and len(ax.texts) < 5  # no numbers
    assert fits_a_page(ax.figure)
    learned = np.ones((300, 50))
    learned[7] = np.nan
    learned[[20, 30], 0] = -9  # the ten worst are shown, and the one without a latent is the worst
    fig = plots.plot_directions(np.eye(300, 50) + 1, {"learned": learned})
    assert fits_a_page(fig) and len(fig.axes) == 10 and "50" in fig.get_supylabel()
    shown = [int(title(ax).split(":")[0][1:]) for ax in fig.axes]
    assert shown[0] == 7 and {20, 30} < {*shown[1:4]} and "none" in title(fig.axes[0])


def test_sorted_latents_come_in_the_order_of_the_features_with_a_frame_if_found():
    c = np.array([[0.1, 0.95], [0.0, 0.0], [1.0, 0.2], [0.995, 0.3]])
    acts = np.array([[1.0, 0.0, 1.0, 1.0]])
    ax = plots.plot_sorted(torch.tensor(c), torch.tensor(acts), title="mine")
    assert ax.images[0].get_array().tolist() == c[[2, 0, 3, 1]].tolist()
    assert [patch.get_xy() for patch in ax.patches] == [(-0.5, -0.5)]
    opaque = ax.images[0].get_alpha() == 1  # a latent along a feature, also one that has its own
    assert opaque.tolist() == [[True, True], [False, False], [True, True], [False, False]]
    names = [(t.get_text(), t.xy[1]) for t in ax.texts if t.get_rotation() == 90]
    assert names == [("matched", 0.5), ("redundant", 2), ("dead", 3)]
    assert numbers(title(ax)) == [1, 2]
    ax = plots.plot_sorted(torch.tensor(c), one=0.94)
    assert len(ax.patches) == 2 and numbers(title(ax)) == [2, 2]


def test_chance_bounds_random_from_above_and_the_sae_from_below():
    chance = np.array([[0.51, 0.53], [0.711, 0.91], [0.3, 0.8]])
    (ax,) = plots.plot_chance(chance, [0.9989, 1]).axes
    assert numbers(title(ax)) == [0.998, 0.72] and ax.lines[0].get_xdata()[0] == 0.9989
    heights = [[b.get_x() for b in bars if b.get_height()] for bars in ax.containers]
    assert heights == [pytest.approx([0.52, 0.54, 0.8]), pytest.approx([0.3, 0.5, 0.7])]
    named = {text.get_text(): text.get_position()[0] for text in ax.texts[:2]}
    assert named == {"worst": 0.51, "mean": 0.55}
    (ax,) = plots.plot_chance(np.full((2, 2), 0.7), [0.5, np.nan]).axes
    assert "none" in title(ax) and not ax.lines


def test_training_is_three_figures_over_the_same_batches():
    figs = plots.plot_training(a_history(), np.array([0, 3, 2]), 3, **TRUTH)
    drawn = [[list(line.get_ydata()) for line in fig.axes[0].lines] for fig in figs]
    assert drawn == [
        [[15, 13, 11], [9, 8, 7], [6, 5, 4], [0.1, 0.1]],
        [[2, 0.75, 0.5], [1, 1]],
        [[0, 3, 2]],
    ]
    assert all(fig.axes[0].lines[0].get_xdata().tolist() == [1, 2, 10] for fig in figs)
    sides = {(fig.axes[0].get_xlim(), *fig.axes[0].get_position().intervalx) for fig in figs}
    assert len(sides) == 1  # the three stand above one another
    said = [numbers(title(fig.axes[0])) for fig in figs]
    assert said == [[15, 11], [0, 2.0, 1.4], [2, 3]]  # (the 0 of L0)


def test_training_marks_the_moments_from_which_on_it_lasts():
    steps, error, found = (0, 9, 99, 1233), (0.009, 0.05, 0.009, 0.002), [3, 3, 2, 3]
    figs = plots.plot_training(a_history(steps, error, error, error), np.array(found), 3, **TRUTH)
    assert numbers(title(figs[2].axes[0])) == [3, 1234]
    moments, expected = {"error gone": 100, "all found": 1234}, {}
    for fig, new in zip(figs, (None, "error gone", "all found"), strict=True):
        expected |= {new: moments[new]} if new else {}
        lines = {line.get_label(): line.get_xdata()[0] for line in fig.axes[0].lines}
        assert {name: lines[name] for name in moments if name in lines} == expected
        legend = fig.axes[0].get_legend()
        assert {*expected} < {text.get_text() for text in legend.texts}
        fig.canvas.draw()
        assert legend.get_window_extent().x1 <= fig.bbox.x1  # nothing is cut off


def test_directions_are_bars_of_unit_vectors_with_their_signed_cosines():
    truth = np.diag([1.0, 2, 3, 4])
    learned = truth + np.diag([0.3, 0.6, 0.0, 0.0]) @ np.roll(np.eye(4), 1, axis=1)
    learned[3] *= -1  # the opposite is another feature
    fig = plots.plot_directions(truth, {"learned": learned, "price off": truth})
    assert [numbers(title(ax))[-1] for ax in fig.axes] == [0.957, 0.957, 1, -1]
    assert numbers(fig.get_suptitle())[-1] == -1
    bars = [[bar.get_width() for bar in bars] for bars in fig.axes[1].containers]
    assert bars[0] == bars[2] == [0, 1, 0, 0]
    assert bars[1] == pytest.approx([0, 0.957, 0.287, 0], abs=1e-3)
    names = [text.get_text() for text in fig.legends[0].texts]
    assert names == ["ground truth", "learned", "price off"]


def test_firing_counts_hits_and_false_alarms_and_names_no_partner_where_there_is_none():
    ax = plots.plot_firing([0, 0, 1, 0.5, 0], [0.2, 0.3, 0.9, 0, 0], np.arange(5) == 3)
    drawn = [points(line) for line in ax.lines[1:]]
    assert drawn == [[(0, 0.2), (0, 0.3), (1, 0.9), (0, 0)], [(0.5, 0)]]
    assert ax.lines[1].get_marker() != ax.lines[2].get_marker()
    assert numbers(title(ax)) == [2, 5, 1, 3, 2]
    assert plots.plot_firing([0.0], [0.2], [False]).get_legend() is None


def test_bars_are_means_with_a_dot_for_every_seed_and_all_means_every_seed():
    fig = plots.plot_bars({"one": [1, 1, 10], "two": [10]}, 10)
    (ax,) = fig.axes
    assert [bar.get_width() for bar in ax.patches] == [4, 10]
    assert len(set(points(ax.lines[0]))) == 3 and points(ax.lines[1]) == [(10, 1)]
    assert [text.get_text() for text in ax.texts] == ["4", "10"]
    assert numbers(fig.get_suptitle()) == [1, 2, 10]


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_drawn_without_training_for_a_page(name, monkeypatch):
    for trains in ("train_sae", "train_toy_model"):
        monkeypatch.setattr(pictures, trains, None)
    draw = getattr(pictures, name)
    assert fits_a_page(draw()[0]) and "\n" not in draw.__doc__  # it is the alternative text


def test_the_film_and_the_first_minute_say_what_they_draw():
    for draw, n in ((pictures.draw_film, 4), (pictures.draw_first_minute, 10)):
        fig, said = draw()
        numbers_of = pictures.stored()[draw.__name__]
        truth, at = torch.tensor(numbers_of["truth"]), pictures.IN_THE_PLANE if n == 4 else 0.99
        rows = [torch.tensor(frame["W_dec"]) for frame in numbers_of["frames"]]
        found = [pictures.recovered(W_dec, truth, at) for W_dec in rows]
        assert [int(m) for m in re.findall(r"(\d+)(?: of 4)? found", said)] == found
        assert found[0] == found[1] == 0 and found[-1] == n  # what the lesson says of it
        large = [f"{m} of 4" if n == 4 else str(m) for m in found]
        assert [w for w in words(fig) if w in {*large}] == large


def arrows(ax) -> list[tuple]:
    return [(np.array(t.xyann), np.array(t.xy)) for t in ax.texts if hasattr(t, "xyann")]


def test_arrows_are_as_long_and_as_far_apart_as_it_says():
    for ax in pictures.draw_price()[0].axes:
        length = sum(np.hypot(*(end - start)) for start, end in arrows(ax))
        assert numbers(title(ax))[-1] == pytest.approx(length, abs=0.005)
    fig, said = pictures.draw_leak()
    cosine, (_, tip) = pictures.stored()["draw_leak"], arrows(fig.axes[0])[-1]
    assert 0.2 < cosine < 0.5 and plots.down(cosine) in words(fig) and plots.down(cosine) in said
    assert tip[0] / np.hypot(*tip) == pytest.approx(cosine)
    assert [bar.get_width() for bar in fig.axes[1].patches] == [1, 0, 0, cosine]


def test_broken_runs_stand_beside_the_healthy_one_dotted():
    fig, said = pictures.draw_broken_runs()
    runs = pictures.stored()["draw_broken_runs"]
    healthy = runs.pop("healthy")
    for column, (name, run) in zip(np.reshape(fig.axes, (3, 4)).T, runs.items(), strict=True):
        assert title(column[0]) == f"Run {name}" and f"{name} ends at" in said
        for ax, curve in zip(column, ("error", "l0", "norm"), strict=True):
            dotted, solid, end = ax.lines
            assert dotted.get_linestyle() == ":" and list(dotted.get_ydata()) == healthy[curve]
            assert list(solid.get_ydata()) == run[curve]
            assert points(end) == [(run["step"][-1] + 1, run[curve][-1])]


def test_the_hole_and_the_choice_of_k_say_what_the_stored_experiments_show():
    ax = pictures.draw_hole()[0].axes[1]
    silent = pooled("absorption")[("λ = 0.03",)]["A's fires on A and B"] < 0.5
    assert [bar.get_width() for bar in ax.patches] == [48, 48, (~silent).sum()]
    assert numbers(title(ax)) == [silent.sum(), silent.size]
    found, *measures = pictures.draw_choosing_k()[0].axes
    ks = [int(text.get_text()) for text in measures[-1].get_xticklabels()]
    complete = [k for k, share in zip(ks, found.lines[0].get_ydata(), strict=True) if share > 0.99]
    for ax, best in zip(measures, (min, max, min), strict=True):
        means, (place, value) = list(ax.lines[0].get_ydata()), points(ax.lines[1])[0]
        assert value == best(means) == means[place]
        verdict = "right" if ks[place] in complete else "wrong"
        assert numbers(title(ax)) == [ks[place]] and title(ax).endswith(verdict)
        assert [ks[round(band.get_x() + 0.5)] for band in ax.patches] == complete
