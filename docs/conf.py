"""How is the documentation built? ``sphinx-build -W -b html docs OUT``."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]
sys.path.append(str(HERE.parent / "bench"))

from tele._version import VERSION  # noqa: E402  (the path above comes first)

project = "tele"
author = "The tele developers"
copyright = "2026, the tele developers"  # noqa: A001  (Sphinx wants this name)
version = release = VERSION
extensions = [
    "api_table",
    "fleet_table",
    "reference_pages",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = f"tele {VERSION}"
exclude_patterns = ["_build"]
nitpicky = False
autodoc_typehints = "none"
