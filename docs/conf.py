"""Sphinx configuration. `make docs` treats warnings as errors."""

from importlib.metadata import version as _version

project = "lightning-alignprune"
author = "The lightning-alignprune developers"
project_copyright = author
release = _version("lightning-alignprune")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

napoleon_use_ivar = True  # attributes of a NamedTuple are members already
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = "lightning-alignprune"
