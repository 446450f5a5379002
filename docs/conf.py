"""The site's configuration: ``python -m sphinx -W --keep-going -b html docs FOLDER`` builds it, without a network."""

from __future__ import annotations

import sys
from pathlib import Path

import wsipipe

sys.path.insert(0, str(Path(__file__).parent / "reference"))  # from_code.py

project = "wsipipe"
author = "the wsipipe authors"
version = release = wsipipe.__version__
project_copyright = "Apache-2.0"

extensions = ["myst_nb", "sphinx.ext.autodoc", "from_code", "mathml"]
exclude_patterns = ["pictures", "examples"]
suppress_warnings = [
    "toc.not_readable",  # index.md has places for pages that are being written; one in no place is an error
]
nb_execution_mode = "off"  # a test runs the notebook; its outputs are those of the demo
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
smartquotes = False  # -- begins a flag

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"wsipipe {release}"
html_copy_source = False
html_show_sphinx = False
