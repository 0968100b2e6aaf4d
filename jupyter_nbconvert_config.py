"""Settings of `jupyter nbconvert` in this folder: what the page and the slides leave out."""

c = get_config()  # noqa: F821
c.TagRemovePreprocessor.enabled = True
c.TagRemovePreprocessor.remove_input_tags = {"hide-input"}  # the packed library
c.SlidesExporter.exclude_input = True  # slides show text and figures
c.SlidesExporter.exclude_input_prompt = True
c.SlidesExporter.exclude_output_prompt = True
c.SlidesExporter.reveal_scroll = True
