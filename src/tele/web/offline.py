"""How does a recording become one file that a browser plays, without a network?

The file is a page that was built (:mod:`tele.web.built`) with the .tape file in it, as base64, and
the data keys of a sealed recording. Its policy lets nothing run but the page's own script, whose
digest it names, and nothing load at all.

Invariant: what is put into the page is base64 and JSON of base64: no byte of a recording is markup.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tele.errors import InvalidInput, Unavailable
from tele.web.built import STATIC

TEMPLATE: Final = "replay.template"
_SECRETS: Final = b"@SECRETS@"
_RECORDING: Final = b"@RECORDING@"
#: Bytes of a recording: a browser has all of it in memory, more than once.
LIMIT: Final = 128 * 1024 * 1024


def page_of(
    tape: Iterable[bytes], secrets: Mapping[int, bytes], folder: Path = STATIC
) -> Iterator[bytes]:
    """Yield the bytes of the page for the .tape file ``tape``.

    ``secrets`` are the data keys of a sealed recording, by number: the page can be read without
    any other key. Raises :class:`Unavailable` if the pages were not built, and
    :class:`InvalidInput` for a recording that is too large.
    """
    try:
        template = (folder / TEMPLATE).read_bytes()
    except OSError:
        raise Unavailable(
            "this installation has no pages for browsers: install tele from a wheel, or with npm at"
            " hand; --format tape and cast need none"
        ) from None
    head, _, rest = template.partition(_SECRETS)
    middle, _, tail = rest.partition(_RECORDING)
    keys = {str(number): base64.b64encode(key).decode() for number, key in secrets.items()}
    yield head + json.dumps(keys).encode() + middle
    yield from _encoded(tape)
    yield tail


def _encoded(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the base64 of all parts together."""
    left, size = b"", 0
    for part in parts:
        size += len(part)
        if size > LIMIT:
            raise InvalidInput(
                f"the recording has more than {LIMIT >> 20} MiB, too much for one page; give"
                " --format tape"
            )
        left += part
        whole = len(left) - len(left) % 3
        yield base64.b64encode(left[:whole])
        left = left[whole:]
    yield base64.b64encode(left)
