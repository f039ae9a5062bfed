"""Configuration of the documentation's builder, Sphinx; see CONTRIBUTING.md for the command."""

import flax_resnet

project = "flax_resnet"
author = "the flax_resnet authors"
copyright = author
version = release = flax_resnet.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# Small enough for code of 95 columns.
html_theme_options = {"light_css_variables": {"code-font-size": "75%"}}
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 3

# Docstrings name other objects in plain double backticks, so that nothing has to be resolved.
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
# "Attributes" as they stand in the docstring, and not as "Variables".
napoleon_custom_sections = [("Attributes", "params_style")]
