"""Settings of the page and of the slides: `jupyter nbconvert --config docs/nbconvert_config.py`."""

from pathlib import Path

c = get_config()  # noqa: F821
c.HTMLExporter.template_file = str(Path(__file__).with_name("page.html.j2"))  # slides use it too
c.TagRemovePreprocessor.enabled = True
c.TagRemovePreprocessor.remove_input_tags = {"hide-input"}  # the packed library, folded cells
c.HTMLExporter.exclude_input_prompt = True
c.HTMLExporter.exclude_output_prompt = True
c.SlidesExporter.exclude_input = True  # slides show text and figures only
c.SlidesExporter.reveal_scroll = True
c.SlidesExporter.reveal_number = "c/t"
