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
    "diagrams",
    "fleet_table",
    "rotation_table",
    "man_references",
    "module_list",
    "reference_pages",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = f"tele {VERSION}"
# The package among the examples has a page of its own for those who install it.
exclude_patterns = ["_build", "examples"]
nitpicky = False
man_pages = [
    ("reference/commands", "tele", "SSH access to a fleet of machines", [author], 1),
    ("reference/configuration", "tele.yaml", "configuration of tele's services", [author], 5),
    ("man/tele-auth", "tele-auth", "certificate authority and audit of a cluster", [author], 8),
    ("man/tele-proxy", "tele-proxy", "jump host and tunnel end of a cluster", [author], 8),
    ("man/tele-node", "tele-node", "SSH server of a machine in a cluster", [author], 8),
]
autodoc_typehints = "none"
