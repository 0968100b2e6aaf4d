"""Figures take arrays, return what they promise, and say only what is true of what is drawn."""

import re
from itertools import islice
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.text import Text

from evidence import pages
from sae_lib.lesson import plots, show
from tools import pictures

TRUTH = {"variance": 1.0, "oracle_loss": 0.1, "true_l0": 1.0, "final_l0": 1.44}
PICTURES = sorted(name for name in vars(pictures) if name.startswith("draw_"))


def a_history(steps=(0, 1, 9), error=(9.0, 8, 7), price=(6.0, 5, 4), l0=(2.0, 0.75, 0.5)):
    """What training would have logged, with numbers of our own."""
    return SimpleNamespace(step=steps, reconstruction=error, sparsity=price, l0=l0)


def k_rows(n: int = 1) -> list[dict]:
    """The error is least at k = 9; agreement is highest at 5, the cosine least at 7: both right."""
    table = {3: (0.4, 0.9, 0.2, 0.1), 5: (0.2, 1.0, 0.1, 1), 7: (0.1, 0.8, 0.0, 1)}
    table[9] = (0.0, 0.7, 0.3, 0.9)
    names = ("unexplained", "agreement", "mean_abs_cosine", "found")
    return [dict(zip(names, row, strict=True), k=k) for k, row in table.items()] * n


def every_figure(n: int):
    """All figures, of n things where that makes sense."""
    h, ones = a_history(range(n), *np.ones((3, n))), np.ones(n)
    yield plots.plot_matrix(np.eye(n, 7), numbers=0, marked=[(0, 0)])
    yield plots.plot_matrix(np.eye(7, n), yticks=list("abcdefg"))
    yield plots.plot_sorted(torch.eye(7)[:, :n], torch.eye(7))
    yield plots.plot_sorted(torch.eye(n, 7).double())
    yield plots.plot_gram(np.eye(n))
    yield plots.plot_chance(np.full((2, n), 0.7), ones)
    yield from plots.plot_training(h, np.arange(n), n, **TRUTH)
    yield plots.plot_directions(np.eye(n, 3) + 1, {"a": np.ones((n, 3)), "b": np.ones((n, 3))})
    yield plots.plot_firing(ones, ones, ones > 2)
    yield plots.plot_bars({str(i): [i] for i in range(n)}, n)
    yield plots.plot_hole({"A alone": ones, "A and B": 0 * ones})
    yield plots.plot_choosing_k(k_rows(n))
    yield pages.plot_map(np.ones((n, 2)), ["x", 1e-3], range(n))
    yield pages.plot_phase({m: {d: (1 + np.arange(n), ones) for d in (3, 5)} for m in "ab"})


def picture(name: str):
    drawn = getattr(pictures, name)()
    return drawn if isinstance(drawn, tuple) else (drawn, "")


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
        return [show.png(shown.figure) for shown in islice(every_figure(1), 2, 6)]

    light = drawn()
    with plt.style.context("dark_background"):
        assert drawn() == light
    for module in (plots, pictures):
        for name, draw in vars(module).items():
            assert not name.startswith(("plot_", "draw_")) or hasattr(draw, "__wrapped__"), name


@pytest.mark.parametrize("draw", [plots.plot_matrix, plots.plot_sorted])
def test_a_plot_draws_on_the_axes_it_is_given(draw):
    ax = plt.subplots()[1]
    assert draw(torch.eye(2), ax=ax) is ax and ax.images


def test_a_matrix_is_coloured_from_minus_one_to_one_and_rounded_towards_zero():
    matrix = [[0.96, 0.3, 0.99], [-0.5, -0.995, 0.989]]
    ax = plots.plot_matrix(matrix, numbers=0.5, marked=[(1, 2)])
    assert ax.images[0].get_array().tolist() == matrix
    assert ax.images[0].get_clim() == (-1, 1)
    said = {text.get_position(): text.get_text() for text in ax.texts}  # (column, row)
    assert said == {(0, 0): ".96", (2, 0): "1", (0, 1): "−.50", (1, 1): "−1", (2, 1): ".98"}
    assert ax.patches[0].get_bbox().bounds == (1.5, 0.5, 1, 1)


def test_colours_that_stand_side_by_side_differ_in_lightness():
    def grey(colours):
        return np.sort(np.array([plots.plt.matplotlib.colors.to_rgb(c) for c in colours]) @ luma)

    luma = (0.3, 0.6, 0.1)
    blue, white, red = plots.DIVERGING([0.0, 0.5, 1.0])[:, :3] @ luma
    assert blue - red > 0.25 and white > 0.995
    assert np.diff(grey(plots.FEATURES)).min() > 0.12
    assert np.diff(grey([plots.BLUE, plots.ORANGE, plots.LINE])).min() > 0.12


def test_a_huge_matrix_shows_its_first_rows_and_says_so():
    large = np.eye(300)
    ax = plots.plot_sorted(large)
    assert ax.images[0].get_array().shape == (100, 100) and "300" in ax.texts[0].get_text()
    assert title(ax).startswith("300 of 300") and len(ax.texts) < 5  # no numbers
    assert fits_a_page(ax.figure) and fits_a_page(plots.plot_gram(np.eye(2, 300)))
    fig = plots.plot_directions(np.eye(300, 50) + 1, {"learned": np.ones((300, 50))})
    assert fits_a_page(fig) and len(fig.axes) == 10 and "50" in fig.get_supylabel()


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


def test_gram_counts_the_features_with_one_opposite():
    fig = plots.plot_gram(np.array([[1.0, -1, 0, 0], [0, 0, 2, 0.5]]))
    assert numbers(fig.get_suptitle()) == [2, 4, 0.5, 2]
    assert [bar.get_width() for bar in fig.axes[1].patches] == [1, 1, 2, 0.5]
    three = plots.plot_gram(np.array([[1.0, -1, -1]]))  # the first has two
    assert numbers(three.get_suptitle())[:2] == [2, 3]


def test_chance_bounds_random_from_above_and_the_sae_from_below():
    chance = np.array([[0.51, 0.53], [0.711, 0.91], [0.3, 0.8]])
    fig = plots.plot_chance(chance, [0.9989, 1])
    large = [text.get_text() for text in fig.axes[0].texts if text.get_fontsize() > 12]
    assert large == ["0.72", "0.998"]
    ax = fig.axes[1]
    assert ax.lines[0].get_xdata()[0] == 0.9989
    heights = [[b.get_x() for b in bars if b.get_height()] for bars in ax.containers]
    assert heights == [pytest.approx([0.3, 0.5, 0.7]), pytest.approx([0.52, 0.54, 0.8])]
    assert {text.get_text(): text.xy[0] for text in ax.texts} == {"worst": 0.51, "mean": 0.55}
    fig = plots.plot_chance(np.full((2, 2), 0.7), [0.5, np.nan])
    assert "none" in words(fig) and not fig.axes[1].lines


def test_training_is_three_figures_over_the_same_batches():
    figs = plots.plot_training(a_history(), np.array([0, 3, 2]), 3, **TRUTH)
    drawn = [[list(line.get_ydata()) for line in fig.axes[0].lines] for fig in figs]
    assert drawn == [
        [[15, 13, 11], [9, 8, 7], [6, 5, 4], [0.1, 0.1]],
        [[2, 0.75, 0.5], [1, 1]],
        [[0, 3, 2]],
    ]
    assert all(fig.axes[0].lines[0].get_xdata().tolist() == [1, 2, 10] for fig in figs)
    assert len({fig.axes[0].get_xlim() for fig in figs}) == 1
    sides = {tuple(fig.axes[0].get_position().intervalx) for fig in figs}
    assert len(sides) == 1  # the three stand above one another
    said = [numbers(title(fig.axes[0])) for fig in figs]
    assert said == [[], [0, 2.0, 1.4], [2, 3]]  # (the 0 of L0)


def test_training_marks_the_moments_from_which_on_it_lasts():
    steps, error, found = (0, 9, 99, 1233), (0.009, 0.05, 0.009, 0.002), [3, 3, 2, 3]
    history = a_history(steps, error, error, error)
    figs = plots.plot_training(history, np.array(found), 3, **TRUTH)
    assert numbers(title(figs[0].axes[0])) == [100]
    assert numbers(title(figs[2].axes[0])) == [3, 1234]
    for fig in figs:
        assert [line.get_xdata()[0] for line in fig.axes[0].lines[-2:]] == [100, 1234]
    named = [(text.get_text().strip(), text.xy[0]) for text in figs[0].axes[0].texts]
    assert named == [("error gone", 100), ("all found", 1234)]  # once, above the first
    close = plots.plot_training(
        a_history((0, 9, 99, 1233), [9, 9, 9, 0], error, error), found, 3, **TRUTH
    )
    assert [text.get_text().strip() for text in close[0].axes[0].texts] == ["error gone, all found"]
    assert fits_a_page(close[0])


def test_directions_are_bars_of_unit_vectors_with_their_signed_cosines():
    truth = np.diag([1.0, 2, 3, 4])
    learned = truth + np.diag([0.3, 0.6, 0.0, 0.0]) @ np.roll(np.eye(4), 1, axis=1)
    learned[3] *= -1  # the opposite is another feature
    fig = plots.plot_directions(truth, {"learned": learned, "price off": truth})
    assert [numbers(title(ax))[-1] for ax in fig.axes] == [0.957, 0.957, 1, -1]
    assert numbers(fig.get_suptitle())[-1] == -1
    bars = [[bar.get_width() for bar in bars] for bars in fig.axes[1].containers]
    assert bars[0] == bars[2] == [0, 1, 0, 0] and bars[1] == pytest.approx(
        [0, 0.957, 0.287, 0], abs=1e-3
    )
    assert len({bars[0].get_facecolor() for bars in fig.axes[1].containers}) == 3
    names = [text.get_text() for text in fig.legends[0].texts]
    assert names == ["ground truth", "learned", "price off"]


def test_of_many_directions_the_ten_worst_are_shown_and_one_without_a_latent_is_the_worst():
    angles = np.linspace(0.1, 1.0, 15)[::-1]
    learned = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    learned[7] = np.nan
    fig = plots.plot_directions(np.eye(1, 2).repeat(15, axis=0), {"learned": learned})
    shown = [int(title(ax).split(":")[0][1:]) for ax in fig.axes]
    assert shown == [7, 0, 1, 2, 3, 4, 5, 6, 8, 9] and "none" in title(fig.axes[0])
    assert numbers(fig.get_suptitle())[0] == 15
    assert len(plots.plot_directions(np.eye(12), {"learned": np.eye(12)}).axes) == 12


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


def test_a_hole_is_where_a_latent_is_silent_in_most_saes():
    fired = {"A alone": [1, 1, 0.9], "A and B": [0.0, 0.4, 1]}
    ax = plots.plot_hole(fired).axes[1]
    filled = [(dots.get_facecolors()[:, :3].mean(axis=1) < 0.9).tolist() for dots in ax.collections]
    assert filled == [[True] * 3, [True, False, False]]
    assert "A and B" in title(ax) and numbers(title(ax)) == [2, 3]
    assert [text.get_text() for text in ax.get_yticklabels()] == list(fired)


def test_choosing_k_circles_what_each_measure_would_choose_and_says_whether_it_is_right():
    rows = k_rows() + [row | {"unexplained": row["unexplained"] + 0.2} for row in k_rows()]
    found, error, agreed, cosine = plots.plot_choosing_k(rows).axes
    circled = [ax.lines[-1].get_xdata()[0] for ax in (error, agreed, cosine)]
    assert circled == [3, 1, 2]  # places: k = 9, 5, 7
    assert [text.get_text() for text in cosine.get_xticklabels()] == ["3", "5", "7", "9"]
    verdicts = [(numbers(title(ax)), title(ax).split()[-1]) for ax in (error, agreed, cosine)]
    assert verdicts == [([9], "wrong"), ([5], "right"), ([7], "right")]
    for ax in (found, error, agreed, cosine):
        assert [(p.get_x(), p.get_width()) for p in ax.patches] == [(0.5, 1), (1.5, 1)]
    assert list(error.lines[-2].get_ydata()) == pytest.approx([0.5, 0.3, 0.2, 0.1])  # means
    rows = [row | {"null_agreement": row["k"] / 10} for row in rows]
    agreed = plots.plot_choosing_k(rows).axes[2]
    assert agreed.lines[-1].get_ydata().tolist() == [0.3, 0.5, 0.7, 0.9] and agreed.get_legend()


def test_shares_are_rounded_down_in_a_map_and_in_what_is_said_up_to_two_features_a_dimension():
    ax = pages.plot_map([[0.0, 0.999, 1.0]], [1, 2, 3], ["a"])
    assert [numbers(text.get_text())[0] for text in ax.texts] == [0, 99, 100]
    ax = pages.plot_phase({"a": {3: ([1, 2, 3], [1, 0.98, 0])}, "b": {3: ([2, 3], [1, 0.5])}})
    assert numbers(title(ax))[-1] == 98


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_drawn_without_training_and_has_a_sentence_for_who_cannot_see_it(
    name, monkeypatch
):
    for trains in ("train_sae", "train_toy_model"):
        monkeypatch.setattr(pictures, trains, None)
    fig, said = picture(name)
    assert fits_a_page(fig)
    first = getattr(pictures, name).__doc__.splitlines()[0]
    assert first.endswith(".") and (not said or said.startswith(first))
    numbers_of = pictures.stored()
    assert set(numbers_of) <= set(PICTURES) and pictures.NUMBERS.stat().st_size < 150_000


def test_the_film_and_the_first_minute_say_what_they_draw():
    for name, n in (("draw_film", 4), ("draw_first_minute", 10)):
        fig, said = picture(name)
        stored = pictures.stored()[name]
        truth = torch.tensor(stored["truth"])
        at = pictures.IN_THE_PLANE if n == 4 else 0.99
        found = [pictures.recovered(torch.tensor(f["W_dec"]), truth, at) for f in stored["frames"]]
        assert [int(m) for m in re.findall(r"(\d+)(?: of 4)? found", said)] == found
        assert found[0] == found[1] == 0 and found[-1] == n  # what the lesson says of it
        large = [f"{m} of 4" if n == 4 else str(m) for m in found]
        assert [w for w in words(fig) if w in {*large}] == large


def test_the_leak_is_the_cosine_of_the_two_arrows():
    fig, said = picture("draw_leak")
    cosine = pictures.stored()["draw_leak"]
    assert 0.2 < cosine < 0.5 and plots.down(cosine) in words(fig) and plots.down(cosine) in said
    tip = [text.xy for text in fig.axes[0].texts if hasattr(text, "xy")][-1]
    assert tip[0] / np.hypot(*tip) == pytest.approx(cosine)
    assert [bar.get_width() for bar in fig.axes[1].patches] == [1, 0, 0, cosine]


def test_the_price_of_a_detour_is_the_length_of_its_arrows():
    fig, _ = picture("draw_price")
    for ax in fig.axes:
        ends = [(np.array(t.xyann), np.array(t.xy)) for t in ax.texts if hasattr(t, "xyann")]
        length = sum(np.hypot(*(end - start)) for start, end in ends)
        assert numbers(title(ax))[-1] == pytest.approx(length, abs=0.005)


def test_broken_runs_stand_beside_the_healthy_one_dotted():
    fig, said = picture("draw_broken_runs")
    runs = pictures.stored()["draw_broken_runs"]
    healthy = runs.pop("healthy")
    axes = np.array(fig.axes).reshape(3, 4)
    assert [title(ax)[-1] for ax in axes[0]] == list(runs) == list("ABCD")
    for column, run in zip(axes.T, runs.values(), strict=True):
        for ax, curve in zip(column, ("error", "l0", "norm"), strict=True):
            dotted, solid, end = ax.lines
            assert (dotted.get_linestyle(), solid.get_linestyle()) == (":", "-")
            assert dotted.get_ydata().tolist() == healthy[curve]
            assert solid.get_ydata().tolist() == run[curve]
            assert points(end) == [(run["step"][-1] + 1, run[curve][-1])]
    assert said.count("ends at") == 4
