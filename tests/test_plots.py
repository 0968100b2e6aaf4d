"""Figures take arrays, return what they promise, and are shown with a description."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_lib import plots
from sae_lib.training import TrainingHistory

RUN = {"step": np.arange(4), "error": np.ones(4), "l0": np.ones(4), "norm": np.ones(4)}
HISTORY = TrainingHistory(*(np.arange(1, 5) for _ in range(4)), np.ones((4, 3, 2)))
ON_AXES = {
    "matrix": lambda ax: plots.plot_matrix(np.eye(3, 7), ax, marked=[(1, 2)], numbers=0.5),
    "norms": lambda ax: plots.plot_norms([1.0, 0.5], ax),
    "chance": lambda ax: plots.plot_chance(np.full((2, 3), 0.7), [0.99, 1.0, 1.0], ax),
    "firing": lambda ax: plots.plot_firing([0.0, 1.0], [0.0, 0.9], ax),
    "seeds": lambda ax: plots.plot_seeds(np.ones((4, 3)), 0.99, ax),
    "bars": lambda ax: plots.plot_bars({"one": [1, 2], "two": [3]}, 10, ax),
    "lines": lambda ax: plots.plot_lines([0.0, 0.1], {"a": [1, 2]}, ax, xlabel="x"),
    "map": lambda ax: plots.plot_map(np.eye(2), [0.1, "k=1"], ["a", "b"], ax),
}
FIGURES = {
    "training": lambda: plots.plot_training(HISTORY, range(4), 3, true_l0=1.0, oracle_loss=0.1),
    "directions": lambda: plots.plot_directions(np.eye(7), np.eye(7), list("abcdefg")),
    "broken runs": lambda: plots.plot_broken_runs({"healthy": RUN, "A": RUN, "B": RUN}),
    "diagram of the SAE": plots.draw_sae,
    "diagram of packing": plots.draw_packing,
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


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


def test_a_matrix_is_coloured_from_minus_one_to_one_and_numbered_beyond_the_threshold():
    ax = plots.plot_matrix([[1.0, -1.0], [0.3, 0.0]], numbers=0.5)
    assert ax.images[0].get_clim() == (-1, 1)
    assert sorted(text.get_text() for text in ax.texts) == ["1", "−1"]


def test_groups_label_the_rows_they_cover():
    ax = plots.plot_matrix(np.eye(5))
    plots.mark_groups(ax, {"matched": [0, 1], "redundant": [], "dead": [4, 2, 3]})
    assert [(text.get_text(), text.xy[1]) for text in ax.texts] == [("matched", 0.5), ("dead", 3.0)]


def displayed(monkeypatch, call) -> tuple[str, str]:
    shown = []
    monkeypatch.setattr(plots, "display", shown.append)
    call()
    (output,) = shown
    return output.data, repr(output)


def test_show_embeds_a_png_with_its_description_and_closes_the_figure(monkeypatch):
    fig = plt.figure()
    html, text = displayed(monkeypatch, lambda: plots.show(fig, 'a "b" < c'))
    assert 'alt="a &quot;b&quot; &lt; c"' in html and 'src="data:image/png;base64,iVBOR' in html
    assert text == '[figure] a "b" < c'
    assert not plt.fignum_exists(fig.number)


def test_player_shows_one_frame_and_needs_neither_script_tag_nor_network(monkeypatch):
    figures = [plt.figure() for _ in range(3)]
    html, text = displayed(
        monkeypatch, lambda: plots.player(figures, ["one", "two", "three"], "turn", start=1)
    )
    frames = re.findall(r'<img alt="(\w+)" style="([^"]*)"', html)
    assert [name for name, style in frames if "display:none" not in style] == ["two"]
    assert [name for name, _ in frames] == ["one", "two", "three"]
    assert 'min="0" max="2" value="1"' in html
    assert "<script" not in html and "http" not in html
    assert text == "[slider: turn] two"


def test_player_needs_a_description_for_every_frame():
    with pytest.raises(ValueError, match="zip"):
        plots.player([plt.figure()], ["one", "two"], "turn")
