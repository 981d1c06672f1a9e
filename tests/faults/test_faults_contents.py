"""The program of hard contents, with little text in each mode; by command it takes more."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from contents import contents
from recordings import RECORDERS
from shown_terminal import NOTICES, WithoutNotices

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH")


@pytest.mark.parametrize("mode", RECORDERS)
def test_contents(tmp_path: Path, mode: str) -> None:
    """Long lines, binary output, broken UTF-8 and 200 resizes are recorded byte for byte."""
    assert contents(tmp_path, 4, random.Random(1), mode)["shown"] > 16_000_000


def test_notices_are_no_output() -> None:
    """A notice is left out wherever it is cut, and what only begins like one is not."""
    shown = b"a\r\n" + NOTICES[0] + b"\r\ntele: b" + NOTICES[1] + b"\r"
    for size in (1, 2, 3, 7, len(shown)):
        without = WithoutNotices()
        found = [without.feed(shown[at : at + size]) for at in range(0, len(shown), size)]
        assert b"".join(found) + without.end() == b"a\r\n\r\ntele: b\r"
