"""What do these files do? ``.. tele-files::`` lists files of the source with their docstrings.

Each line of the content is a path; the page shows it with the first paragraph of the file's
docstring.
"""

from __future__ import annotations

import ast
from pathlib import Path

from api_table import list_table
from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

_log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parent.parent


def said_by(path: Path) -> str:
    """Return the first paragraph of a file's docstring, or of its folder's."""
    source = path / "__init__.py" if path.is_dir() else path
    if not source.exists():
        _log.warning("no file %s", path)
        return ""
    text = ast.get_docstring(ast.parse(source.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


class FileList(SphinxDirective):
    """``.. tele-files::``."""

    has_content = True

    def run(self) -> list[Node]:
        """Return the table."""
        rows = []
        for name in filter(None, map(str.strip, self.content)):
            path = ROOT / name
            self.env.note_dependency(str(path / "__init__.py" if path.is_dir() else path))
            rows.append((f"``{name.removeprefix('src/tele/')}``", said_by(path)))
        table = ["   :widths: 32 68", *list_table(("File", "Answers"), iter(rows))[1:]]
        return self.parse_text_to_nodes("\n".join([".. list-table::", *table]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the directive."""
    app.add_directive("tele-files", FileList)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
