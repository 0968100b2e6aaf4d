"""Figures take arrays, return what they promise, and are shown with a description."""

from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_lib import plots
from sae_lib.lesson import figures
from sae_lib.training import TrainingHistory

RUN = {"step": np.arange(4), "error": np.ones(4), "l0": np.ones(4), "norm": np.ones(4)}


def a_history(n: int) -> TrainingHistory:
    """n logged moments of three latents in two dimensions."""
    numbers = torch.arange(1.0, n + 1)
    return TrainingHistory(torch.arange(n), numbers, numbers, torch.rand(n, 3), torch.rand(n, 3, 2))


ON_AXES = {
    "matrix": lambda ax: plots.plot_matrix(np.eye(3, 7), ax, marked=[(1, 2)], numbers=0.5),
    "norms": lambda ax: plots.plot_norms([1.0, 0.5], ax),
    "chance": lambda ax: plots.plot_chance(np.full((2, 3), 0.7), [0.99, 1.0, 1.0], ax),
    "firing": lambda ax: plots.plot_firing([0.0, 1.0], [0.0, 0.9], [True, False], ax),
    "recovery": lambda ax: plots.plot_recovery(range(3), np.ones((4, 3)), 10, ax),
    "bars": lambda ax: plots.plot_bars({"one": [1, 2], "two": [3]}, 10, ax),
    "lines": lambda ax: plots.plot_lines([0.0, 0.1], {"a": [1, 2]}, ax, xlabel="x"),
    "map": lambda ax: plots.plot_map(np.eye(2), [0.1, "k=1"], ["a", "b"], ax),
}
FIGURES = {
    "training": lambda: plots.plot_training(
        a_history(4), range(4), 3, true_l0=1.0, oracle_loss=0.1
    ),
    "directions": lambda: plots.plot_directions(
        {"true": np.eye(7), "learned": np.eye(7)}, list("abcdefg")
    ),
    "broken runs": lambda: plots.plot_broken_runs({"healthy": RUN, "A": RUN, "B": RUN}),
    "a moment of the race": lambda: figures.draw_race(a_history(4), 2, (0.1, 10)),
}


@pytest.fixture(autouse=True)
def the_lessons_style():
    with plt.rc_context(plots.STYLE):
        yield
    plt.close("all")


def points(line) -> list[tuple[float, float]]:
    return list(zip(*map(np.ndarray.tolist, line.get_data()), strict=True))


def heights(container) -> list[float]:
    return [patch.get_height() for patch in container.patches]


@pytest.mark.parametrize("draw", ON_AXES.values(), ids=ON_AXES)
def test_a_plot_draws_on_the_axes_it_is_given(draw):
    ax = plt.subplots()[1]
    empty = len(ax.get_children())
    assert draw(ax) is ax
    assert len(ax.get_children()) > empty


@pytest.mark.parametrize("name", [name for name in ON_AXES if name != "lines"])
def test_a_plot_makes_axes_of_its_own_otherwise(name):
    assert isinstance(ON_AXES[name](None), Axes)


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_a_figure_is_returned(draw):
    assert isinstance(draw(), Figure)


@pytest.mark.parametrize("n", [1, 7])
def test_odd_sizes_are_drawn_without_a_warning(n):
    ones = np.ones(n)
    run = {"step": np.arange(n), "error": ones, "l0": ones, "norm": ones}
    drawn = [
        plots.plot_matrix(np.zeros((n, 3)), title="t", colorbar="c", marked=[(n - 1, 2)]),
        plots.plot_matrix(np.zeros((3, n)), numbers=0, yticks=["a", "b", "c"]),
        plots.plot_norms(ones),
        plots.plot_chance(np.full((2, n), 0.7), ones),
        plots.plot_training(a_history(n), range(n), n, true_l0=1.0, oracle_loss=0.1),
        plots.plot_directions({"true": np.ones((n, 3))}, ["name"] * n),
        plots.plot_firing(ones, ones, ones > 2),
        plots.plot_recovery(range(n), np.ones((2, n)), n),
        plots.plot_bars({str(i): [i] for i in range(n)}, n),
        plots.plot_lines(range(n), dict.fromkeys("abcd", ones), plt.subplots()[1]),
        plots.plot_map(np.ones((n, 2)), ["x", 1e-3], range(n)),
        plots.plot_broken_runs({"healthy": run, "A": run}),
        figures.draw_sae(1, n),
    ]
    for shown in drawn:
        shown.figure.draw_without_rendering()


# --- what is drawn ----------------------------------------------------------------------


def test_a_matrix_is_coloured_from_minus_one_to_one_and_a_1_is_what_counts():
    matrix = [[0.96, 0.3, 0.99], [-0.5, -0.995, 0.2]]
    ax = plots.plot_matrix(matrix, numbers=0.5, marked=[(1, 2)])
    assert ax.images[0].get_array().tolist() == matrix
    assert ax.images[0].get_clim() == (-1, 1)
    numbers = {text.get_position(): text.get_text() for text in ax.texts}  # (column, row)
    assert numbers == {(0, 0): ".96", (2, 0): "1", (0, 1): "−.50", (1, 1): "−1"}
    assert ax.patches[0].get_bbox().bounds == (1.5, 0.5, 1, 1)


def test_norms_are_bars_in_order():
    ax = plots.plot_norms([1.0, 0.25, 0.5])
    assert heights(ax.containers[0]) == [1, 0.25, 0.5]
    assert ax.lines[0].get_ydata() == [1, 1]


def test_chance_shows_the_worst_and_the_mean_of_each_dictionary_and_the_saes_worst():
    ax = plots.plot_chance(np.array([[0.51, 0.53], [0.71, 0.91]]), [0.995, 0.99])
    worst, mean = ([bar.get_x() for bar in c if bar.get_height()] for c in ax.containers)
    assert (worst, mean) == (pytest.approx([0.5, 0.7]), pytest.approx([0.52, 0.8]))
    assert ax.lines[0].get_xdata()[0] == 0.99


def test_training_shows_each_series_in_its_panel_and_the_first_batch_at_one():
    step, error, price = torch.tensor([[0.0, 1, 9], [9, 8, 7], [6, 5, 4]])
    rate = torch.tensor([[1.0, 1.0], [0.5, 0.25], [0.5, 0.0]])
    history = TrainingHistory(step, error, price, rate, torch.ones(3, 2, 5))
    fig = plots.plot_training(history, [0, 0, 2], 3, true_l0=1.5, oracle_loss=0.1)
    assert [[list(line.get_ydata()) for line in ax.lines] for ax in fig.axes] == [
        [[15, 13, 11], [9, 8, 7], [6, 5, 4], [0.1, 0.1]],
        [[2, 0.75, 0.5], [1.5, 1.5]],
        [[0, 0, 2]],
    ]
    for line in (*fig.axes[0].lines[:3], fig.axes[1].lines[0], fig.axes[2].lines[0]):
        assert line.get_xdata().tolist() == [1, 2, 10]
    assert not any(ax.get_title("left") for ax in fig.axes)  # no claims in the library


def test_directions_are_told_apart_by_their_marks():
    truth, found = np.eye(7), 0.9 * np.eye(7)
    fig = plots.plot_directions({"true": truth, "learned": found}, list("abcdefg"))
    assert [ax.get_title("left") for ax in fig.axes] == list("abcdefg")
    for i, ax in enumerate(fig.axes):
        lines = {line.get_label(): line for line in ax.lines}
        assert lines["true"].get_ydata().tolist() == truth[i].tolist()
        assert lines["learned"].get_ydata().tolist() == found[i].tolist()
        assert (lines["true"].get_marker(), lines["learned"].get_marker()) == ("o", "x")


def test_firing_is_strength_across_and_activation_up_the_partners_in_another_mark():
    ax = plots.plot_firing([0.0, 1.0, 0.5], [0.2, 0.9, 0.1], [False, False, True])
    assert [points(line) for line in ax.lines[1:]] == [[(0, 0.2), (1, 0.9)], [(0.5, 0.1)]]
    assert ax.lines[1].get_marker() != ax.lines[2].get_marker()


def test_recovery_is_a_line_a_seed_and_their_mean():
    ax = plots.plot_recovery([0, 9], [[0, 10], [4, 6]], 10)
    assert [points(line) for line in ax.lines] == [
        [(1, 0), (10, 10)],
        [(1, 4), (10, 6)],
        [(1, 2), (10, 8)],
    ]


def test_bars_are_means_with_a_dot_for_every_seed():
    ax = plots.plot_bars({"one": [1, 2, 6], "two": [4]}, 10)
    assert [bar.get_width() for bar in ax.patches] == [3, 4]
    assert [points(line) for line in ax.lines] == [[(1, 0), (2, 0), (6, 0)], [(4, 1)]]
    assert [text.get_text() for text in ax.texts] == ["3", "4"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]


def test_lines_are_evenly_spaced_so_that_a_zero_has_a_place():
    ax = plots.plot_lines([0.0, 1e-3, 10.0], {"a": [1, 2, 3], "b": [6, 5, 4]}, plt.subplots()[1])
    assert [points(line) for line in ax.lines] == [
        [(0, 1), (1, 2), (2, 3)],
        [(0, 6), (1, 5), (2, 4)],
    ]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.001", "10"]
    styles = {(line.get_marker(), line.get_linestyle(), line.get_color()) for line in ax.lines}
    assert len(styles) == 2 and len(ax.get_legend().texts) == 2


def test_a_map_writes_each_share_in_its_cell():
    ax = plots.plot_map([[0.0, 0.5, 1.0], [0.25, 0.1, 0.9]], [1, 2, 3], ["a", "b"])
    assert {text.get_position(): text.get_text() for text in ax.texts} == {
        **{(0, 0): "0%", (1, 0): "50%", (2, 0): "100%"},
        **{(0, 1): "25%", (1, 1): "10%", (2, 1): "90%"},
    }


def test_broken_runs_stand_beside_the_healthy_one_dotted():
    runs = {
        name: {"step": np.arange(3), "error": k * np.ones(3), "l0": 10 * k * np.ones(3)}
        | {"norm": 100 * k * np.ones(3)}
        for k, name in enumerate(["A", "healthy", "B"], start=1)
    }
    axes = np.array(plots.plot_broken_runs(runs).axes).reshape(3, 2)
    assert [ax.get_title("left") for ax in axes[0]] == ["Run A", "Run B"]
    for column, k in zip(axes.T, (1, 3), strict=True):
        for ax, scale in zip(column, (1, 10, 100), strict=True):
            dotted, solid, end = ax.lines
            assert (dotted.get_linestyle(), solid.get_linestyle()) == (":", "-")
            assert points(dotted) == [(x, 2 * scale) for x in (1, 2, 3)]
            assert points(solid) == [(x, k * scale) for x in (1, 2, 3)]
            assert points(end) == [(3, k * scale)]


@pytest.mark.parametrize(("d_in", "d_sae"), [(5, 20), (2, 7)])
def test_diagram_of_the_sae_has_a_dot_for_every_number(d_in, d_sae):
    (ax,) = figures.draw_sae(d_in, d_sae).axes
    assert Counter(line.get_xdata()[0] for line in ax.lines) == {0.5: d_in, 4.0: d_sae, 7.5: d_in}


def test_groups_label_the_rows_they_cover():
    ax = plots.plot_matrix(np.eye(5))
    plots.mark_groups(ax, {"matched": [0, 1], "redundant": [], "dead": [4, 2, 3]})
    assert [(text.get_text(), text.xy[1]) for text in ax.texts] == [("matched", 0.5), ("dead", 3.0)]
