"""The lesson's furniture: help with missing names, figures with their text, sliders, `use`."""

import inspect
import re

import matplotlib.pyplot as plt
import pytest
import torch
from IPython.testing.globalipapp import get_ipython

import sae_lib
from sae_lib import plots
from sae_lib.lesson import figures, notebook


def test_a_missing_name_is_explained_and_other_errors_are_left_alone(capsys, monkeypatch):
    shell = get_ipython()
    monkeypatch.setattr(notebook, "get_ipython", lambda: shell)
    notebook.explain_missing_names()
    made_in = notebook.MADE_IN["toy_model"]
    try:
        for code, expected in [
            ("toy_model.W", f"It is made in {made_in}: run the cells there first."),
            ("something_else", "name 'something_else' is not defined"),
        ]:
            result = shell.run_cell(code)
            assert expected in str(result.error_in_exec)
            assert expected in re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    finally:
        shell.set_custom_exc((), None)


@pytest.fixture
def shown(monkeypatch):
    """What was displayed: (html, plain text)."""
    seen = []
    monkeypatch.setattr(figures, "display", lambda page: seen.append((page.data, repr(page))))
    with plt.rc_context(plots.STYLE):
        yield seen
    plt.close("all")


def test_a_figure_is_shown_with_its_text_in_every_form(shown):
    figures.show(plots.plot_norms([1.0, 0.5]), 'Two bars, "one" & a half')
    ((page, text),) = shown
    assert 'alt="Two bars, &quot;one&quot; &amp; a half"' in page
    assert page.count("data:image/png;base64,") == 1
    assert text == '[figure] Two bars, "one" & a half'


def test_a_slider_keeps_its_frames_in_a_script_and_shows_one(shown):
    frames = [plt.figure() for _ in range(3)]
    figures.player(frames, ["first", "second </script>", "third"], "a label", start=1)
    ((page, text),) = shown
    script = re.search(r"(?s)<script type=\"application/json\">(.*?)</script>", page)
    assert script.group(1).count("data:image/png") == 3
    still = page.replace(script.group(0), "")
    assert still.count("<img") == 1 and 'alt="second &lt;/script&gt;"' in still
    assert text == "[slider: a label] second </script>"


@pytest.mark.parametrize("draw", [figures.draw_sae, figures.draw_packing, figures.draw_price])
def test_a_diagram_describes_itself(draw, shown):
    assert draw().axes and len(draw.__doc__) > 20


def test_use_puts_an_object_in_the_place_of_the_librarys_and_of_what_inherits(own_library):
    old, topk = sae_lib.SparseAutoencoder, sae_lib.TopKSparseAutoencoder
    source = inspect.getsource(old).replace(
        "torch.relu(x @ self.W_enc + self.b_enc)", "x @ self.W_enc"
    )
    names = dict(vars(sae_lib.sae))
    exec(source, names)
    new = names["SparseAutoencoder"]
    notebook.use(new)
    assert sae_lib.SparseAutoencoder is sae_lib.metrics.SparseAutoencoder is new
    assert topk.__mro__[1] is new
    assert (topk(5, 8, k=8).encode(torch.randn(3, 5)) < 0).any()


def test_a_class_that_inherits_from_the_one_it_replaces_may_be_used(own_library):
    new = type("SparseAutoencoder", (sae_lib.SparseAutoencoder,), {"mine": True})
    notebook.use(new)
    assert sae_lib.TopKSparseAutoencoder.mine and new.__mro__[1] is not new
