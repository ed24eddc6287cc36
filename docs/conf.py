"""Configuration of Sphinx for these pages: ``sphinx-build -W docs OUT``."""

import epanns

project = "epanns"
author = "The epanns authors"
copyright = "2026, The epanns authors"
release = version = epanns.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "epanns"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(collections|numpy|pandas|pathlib|torch)\..*"),  # their documentation is not read while building
    ("py:class", "JSON values|_.*"),
]
