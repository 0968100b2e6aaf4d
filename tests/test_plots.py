"""Figures take arrays, return what they promise, and their titles are true of what is drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.text import Text

from evidence import pages
from sae_lib import plots
from sae_lib.lesson import figures
from sae_lib.training import TrainingHistory
from tools import pictures

TRUTH = {"variance": 1.0, "oracle_loss": 0.1, "true_l0": 1.0, "final_l0": 1.44}


def a_history(steps=(0, 1, 9), error=(9.0, 8, 7), price=(6.0, 5, 4), l0=(2.0, 0.75, 0.5)):
    """What training would have logged, with numbers of our own."""
    history = TrainingHistory(10, 3)
    history.step, history.l0 = list(steps), list(torch.tensor(l0))
    history.reconstruction, history.sparsity = list(torch.tensor(error)), list(torch.tensor(price))
    return history


def a_run(n: int, k: float = 1) -> dict:
    ones = k * np.ones(n)
    return {"step": np.arange(n), "error": ones, "l0": 10 * ones, "norm": 100 * ones}


def every_figure(n: int):
    """All figures, of n things where that makes sense."""
    h, ones = a_history(range(n), *np.ones((3, n))), np.ones(n)
    states = {name: (torch.eye(5), 0.1, 2.0) for name in "abc"}
    yield plots.plot_matrix(np.eye(n, 7), numbers=0, marked=[(0, 0)])
    yield plots.plot_matrix(np.eye(7, n), yticks=list("abcdefg"))
    yield plots.plot_sorted(torch.eye(7)[:, :n], torch.eye(7))
    yield plots.plot_sorted(torch.eye(n, 7).double())
    yield plots.plot_gram(np.eye(n))
    yield plots.plot_chance(np.full((2, n), 0.7), ones)
    yield from plots.plot_training(h, np.arange(n), n, **TRUTH)
    yield plots.plot_switch([("off", h, range(n)), ("on", h, range(n))], n)
    yield plots.plot_directions(np.eye(n, 3) + 1, {"a": np.ones((n, 3)), "b": np.ones((n, 3))})
    yield plots.plot_firing(ones, ones, ones > 2)
    yield plots.plot_recovery(range(n), np.ones((2, n)), n, {"other": (range(n), ones)})
    yield plots.plot_bars({str(i): [i] for i in range(n)}, n)
    yield pages.plot_map(np.ones((n, 2)), ["x", 1e-3], range(n))
    yield pages.plot_phase({m: {d: (1 + np.arange(n), ones) for d in (3, 5)} for m in "ab"})
    yield pictures.plot_broken_runs({"healthy": a_run(n), "A": a_run(n)})
    yield pictures.draw_strip(states, torch.eye(5))
    yield from (pictures.draw_sae(), pictures.draw_packing(), pictures.draw_price())


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def points(line) -> list[tuple[float, float]]:
    return list(zip(*map(np.ndarray.tolist, map(np.asarray, line.get_data())), strict=True))


def title(ax) -> str:
    return ax.get_title("left")


def test_every_figure_even_of_one_thing_fits_a_page_and_has_no_small_text():
    for shown in every_figure(1):
        fig = shown.figure
        fig.draw_without_rendering()  # a warning would fail
        assert fig.get_figwidth() <= 6.5
        texts = [text for text in fig.findobj(Text) if text.get_text().strip()]
        assert all(text.get_fontsize() >= 12 for text in texts if text.get_visible())
        plt.close(fig)


def test_a_dark_style_set_by_the_reader_changes_no_pixel():
    light = [figures.png(shown.figure) for shown in every_figure(3)]
    with plt.style.context("dark_background"):
        assert [figures.png(shown.figure) for shown in every_figure(3)] == light


@pytest.mark.parametrize("draw", [plots.plot_matrix, plots.plot_sorted, pages.plot_map])
def test_a_plot_draws_on_the_axes_it_is_given(draw):
    ax = plt.subplots()[1]
    rest = ([1, 2], [1, 2]) if draw is pages.plot_map else ()
    assert draw(torch.eye(2), *rest, ax=ax) is ax and ax.images


def test_a_matrix_is_coloured_from_minus_one_to_one_and_rounded_towards_zero():
    matrix = [[0.96, 0.3, 0.99], [-0.5, -0.995, 0.989]]
    ax = plots.plot_matrix(matrix, numbers=0.5, marked=[(1, 2)])
    assert ax.images[0].get_array().tolist() == matrix
    assert ax.images[0].get_clim() == (-1, 1)
    numbers = {text.get_position(): text.get_text() for text in ax.texts}  # (column, row)
    assert numbers == {(0, 0): ".96", (2, 0): "1", (0, 1): "−.50", (1, 1): "−1", (2, 1): ".98"}
    assert ax.patches[0].get_bbox().bounds == (1.5, 0.5, 1, 1)
    blue, white, red = plots.DIVERGING([0.0, 0.5, 1.0])[:, :3] @ (0.3, 0.6, 0.1)
    assert blue - red > 0.25 and white > 0.995  # also on a grey projector


def test_sorted_latents_come_in_the_order_of_the_features_with_a_frame_if_found():
    c = np.array([[0.1, 0.9], [0.0, 0.0], [1.0, 0.2], [0.9, 0.3]])
    acts = np.array([[1.0, 0.0, 1.0, 1.0]])
    ax = plots.plot_sorted(torch.tensor(c), torch.tensor(acts), title="mine")
    assert ax.images[0].get_array().tolist() == c[[2, 0, 3, 1]].tolist()
    assert [patch.get_xy() for patch in ax.patches] == [(-0.5, -0.5)]
    names = [(t.get_text(), t.xy[1]) for t in ax.texts if t.get_rotation() == 90]
    assert names == [("matched", 0.5), ("redundant", 2), ("dead", 3)]
    assert title(ax) == "mine: 1 of 2 found"


def test_gram_counts_the_features_with_one_opposite():
    fig = plots.plot_gram(np.array([[1.0, -1, 0, 0], [0, 0, 2, 0.5]]))
    assert fig.get_suptitle() == "2 of 4 have one opposite; lengths 0.50 to 2.00"
    assert [bar.get_width() for bar in fig.axes[1].patches] == [1, 1, 2, 0.5]


def test_chance_bounds_random_from_above_and_the_sae_from_below():
    ax = plots.plot_chance(np.array([[0.51, 0.53], [0.711, 0.91]]), [0.9989, 1])
    assert ax.lines[0].get_xdata()[0] == 0.9989
    assert title(ax).endswith("past 0.72; this SAE's worst is 0.998")
    ax = plots.plot_chance(np.full((2, 2), 0.7), [0.5, np.nan])
    assert title(ax).endswith("past 0.70; 1 features have no latent")


def test_training_is_three_figures_over_the_same_batches():
    figs = plots.plot_training(a_history(), np.array([0, 0, 2]), 3, **TRUTH)
    drawn = [[list(line.get_ydata()) for line in fig.axes[0].lines] for fig in figs]
    assert drawn == [
        [[15, 13, 11], [9, 8, 7], [6, 5, 4], [0.1, 0.1]],
        [[2, 0.75, 0.5], [1, 1]],
        [[0, 0, 2]],
    ]
    assert all(fig.axes[0].lines[0].get_xdata().tolist() == [1, 2, 10] for fig in figs)
    assert len({fig.axes[0].get_xlim() for fig in figs}) == 1
    assert [title(fig.axes[0]) for fig in figs] == [
        "The error does not go away",
        "L0: at most 2.0, at the end 1.4",
        "2 of 3 at the end",
    ]


def test_training_marks_the_moments_from_which_on_it_lasts():
    steps, error, found = (0, 9, 99, 1233), (0.001, 9.0, 0.001, 0.002), [3, 3, 2, 3]
    history = a_history(steps, error, error, error)
    loss, _, recovery = plots.plot_training(history, np.array(found), 3, **TRUTH)
    assert title(loss.axes[0]) == "The error is gone by batch 100"
    assert title(recovery.axes[0]) == "All 3 from batch 1,234 on"
    for fig in (loss, recovery):
        assert [line.get_xdata()[0] for line in fig.axes[0].lines[-2:]] == [100, 1234]


def test_a_switch_goes_on_where_the_phase_before_ended():
    fig = plots.plot_switch([("off", a_history(), [0, 0, 1]), ("on", a_history(), [1, 2, 3])], 3)
    first, second, switch = fig.axes[2].lines
    assert points(first) == [(1, 0), (2, 0), (10, 1)]
    assert points(second) == [(11, 1), (12, 2), (20, 3)]
    assert switch.get_xdata()[0] == 10
    assert [(t.get_text().strip(), t.xy[0]) for t in fig.axes[1].texts] == [("off", 0), ("on", 10)]
    assert fig.get_suptitle() == "Off: 1 of 3 found. On: 3 of 3 found"


def test_directions_shows_the_four_worst_told_apart_by_their_marks():
    truth = np.eye(5)
    learned = truth + np.diag([0.3, 0.0, 0.2, 0.4, 0.1], k=0) @ np.roll(truth, 1, axis=1)
    fig = plots.plot_directions(truth, {"learned": learned, "no price": truth})
    assert fig.get_suptitle() == "Worst cosine: 0.928"
    assert [title(ax).split("\n")[0][-1] for ax in fig.axes] == ["3", "0", "2", "4"]
    assert title(fig.axes[0]).endswith("learned 0.928, no price 1.000")
    lines = {line.get_label(): line for line in fig.axes[0].lines}
    assert lines["true"].get_ydata().tolist() == truth[3].tolist()
    assert len({line.get_marker() for line in lines.values()}) == 4  # with the zero line
    learned[3] = np.nan  # a feature without a latent is drawn last, and is not the worst
    fig = plots.plot_directions(truth, {"learned": learned})
    assert [title(ax).split("\n")[0][-1] for ax in fig.axes] == ["0", "2", "4", "1"]
    assert fig.get_suptitle() == "Worst cosine: 0.957"


def test_firing_counts_hits_and_false_alarms_and_names_no_partner_where_there_is_none():
    ax = plots.plot_firing([0, 0, 1, 0.5], [0.2, 0.3, 0.9, 0], np.arange(4) == 3)
    assert [points(line) for line in ax.lines[1:]] == [[(0, 0.2), (0, 0.3), (1, 0.9)], [(0.5, 0)]]
    assert ax.lines[1].get_marker() != ax.lines[2].get_marker()
    assert title(ax) == "On in 2 of 4 inputs: latents fire in 1.\nOff in 2: they fire in 2."
    assert plots.plot_firing([0.0], [0.2], [False]).get_legend() is None


def test_recovery_is_a_line_a_seed_their_mean_and_what_to_compare_with():
    ax = plots.plot_recovery([0, 9], [[0, 10], [4, 6]], 10, {"other": ([0, 99], [1, 2])})
    drawn = [points(line) for line in ax.lines]
    assert drawn[:3] == [[(1, 0), (10, 10)], [(1, 4), (10, 6)], [(1, 2), (10, 8)]]
    assert drawn[3] == [(1, 1), (100, 2)]
    assert title(ax) == "1 of 2 SAEs end with all 10"


def test_bars_are_means_with_a_dot_for_every_seed_none_hidden():
    fig = plots.plot_bars({"one": [1, 1, 7], "two": [10]}, 10)
    (ax,) = fig.axes
    assert [bar.get_width() for bar in ax.patches] == [3, 10]
    assert len(set(points(ax.lines[0]))) == 3 and points(ax.lines[1]) == [(10, 1)]
    assert [text.get_text() for text in ax.texts] == ["3", "10"]
    assert fig.get_suptitle() == "1 of 2 find all 10, on every seed"


def test_shares_are_rounded_down_in_a_map_and_in_what_is_said_up_to_two_features_a_dimension():
    ax = pages.plot_map([[0.0, 0.999, 1.0]], [1, 2, 3], ["a"])
    assert [text.get_text() for text in ax.texts] == ["0%", "99%", "100%"]
    ax = pages.plot_phase({"a": {3: ([1, 2, 3], [1, 0.98, 0])}, "b": {3: ([2, 3], [1, 0.5])}})
    assert title(ax) == "Up to n = 2d at least 98 % are found"


def test_a_strip_says_error_l0_and_found_for_each_state():
    rows = np.eye(5)
    fig = pictures.draw_strip({"a": (rows, 0.123, 4), "b": (rows[::-1].copy(), 3e-5, 1.44)}, rows)
    assert not any(text.get_text().strip() for ax in fig.axes for text in ax.texts)
    titles = [title(ax) for ax in fig.axes]
    assert titles == ["a\nerror 12.3%, L0 4.0\n5 of 5 found", "b\nerror 0.0%, L0 1.4\n5 of 5 found"]


def test_broken_runs_stand_beside_the_healthy_one_dotted():
    runs = {name: a_run(3, k) for k, name in enumerate(["A", "healthy", "B"], start=1)}
    axes = np.array(pictures.plot_broken_runs(runs).axes).reshape(3, 2)
    assert [title(ax) for ax in axes[0]] == ["Run A", "Run B"]
    for column, k in zip(axes.T, (1, 3), strict=True):
        for ax, scale in zip(column, (1, 10, 100), strict=True):
            dotted, solid, end = ax.lines
            assert (dotted.get_linestyle(), solid.get_linestyle()) == (":", "-")
            assert points(dotted) == [(x, 2 * scale) for x in (1, 2, 3)]
            assert points(solid) == [(x, k * scale) for x in (1, 2, 3)]
            assert points(end) == [(3, k * scale)]


def test_the_broken_runs_show_their_faults():
    runs = pictures.broken_runs()
    assert list(runs) == ["healthy", "A", "B", "C", "D"]
    last = {name: {k: v[-1] for k, v in run.items()} for name, run in runs.items()}
    assert last["A"]["norm"] > 2  # never renormalised: it grows
    assert last["B"]["step"] < 100 and last["healthy"]["step"] == 799
    assert last["B"]["l0"] > 2 * last["healthy"]["l0"]  # stopped while it still falls
    assert runs["C"]["norm"][5] < 0.4 and last["C"]["norm"] < 0.3  # the wrong axis
    assert 1e4 * last["D"]["error"] < last["healthy"]["error"]  # λ too small
    assert last["D"]["l0"] > 1.5 * last["healthy"]["l0"]
    for name in ("healthy", "B", "D"):
        np.testing.assert_allclose(runs[name]["norm"], 1, rtol=1e-5)
