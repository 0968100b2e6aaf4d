"""The page and the slides: `jupyter nbconvert --config docs/nbconvert_config.py --to html`.

Each is one file that needs no network: formulas become MathML here, which browsers draw by
themselves, and the slides carry reveal.js (`npm install --no-save reveal.js@6.0.2` brings it).
"""

import re
from pathlib import Path

from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

DOCS = Path(__file__).parent


class Renderer(IPythonRenderer):
    """nbconvert's own, which leaves formulas to a script from the network."""

    def inline_math(self, body: str, display: str = "inline") -> str:
        return convert(body, xmlns="", display=display)  # HTML needs no name space

    def block_math(self, body: str) -> str:
        return self.inline_math(body, "block")


def markdown2html(source: str) -> str:
    """A text cell. Predictions get a class; a link to a notebook becomes one to its page; 5 % and
    λ = 5 stay on one line."""
    text = MarkdownWithMath(renderer=Renderer(escape=False, anchor_link_text="")).render(source)
    bold = r"(?:<summary>)?\s*<(?:b|strong)>Predict"
    text = re.sub(rf"<(details|p)>(\s*{bold})", r'<\1 class="predict">\2', text)
    text = re.sub(r'(href="\w+)\.ipynb', r"\1.html", text)
    return re.sub(r"(?<=\d) (?=%)|(?<=[λk]) (?== \d)|(?<=[λk] =) (?=\d)", "&nbsp;", text)


def title(nb) -> str:
    return "".join(re.findall(r"(?m)^# (.*)", nb.cells[0].source)[:1])


c = get_config()  # noqa: F821
c.TemplateExporter.extra_template_paths = [
    str(DOCS),
    str(DOCS.parent / "node_modules" / "reveal.js"),
]
c.TemplateExporter.template_file = "page.html.j2"  # for both
c.TemplateExporter.filters = {"markdown2html": markdown2html, "title": title}
c.TagRemovePreprocessor.enabled = True
c.TagRemovePreprocessor.remove_input_tags = {"hide-input"}  # the packed library, folded cells
c.HTMLExporter.exclude_input_prompt = True
c.HTMLExporter.exclude_output_prompt = True
c.SlidesExporter.exclude_input = True  # slides show text and figures only
