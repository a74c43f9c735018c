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
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
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

# Where a site cannot be reached, its inventory is an empty one: no links, no warning.
_NO_NETWORK = "no_network.inv"
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", (None, _NO_NETWORK)),
    "numpy": ("https://numpy.org/doc/stable", (None, _NO_NETWORK)),
    "torch": ("https://docs.pytorch.org/docs/stable", (None, _NO_NETWORK)),
    "lightning": ("https://lightning.ai/docs/pytorch/stable", (None, _NO_NETWORK)),
}
intersphinx_timeout = 5  # seconds
# An inventory of an earlier build would be passed over for the empty one.
intersphinx_cache_limit = 0  # days

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = "lightning-alignprune"
