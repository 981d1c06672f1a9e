"""The page of one recording: what is in it is data, and a browser may run its own script only."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tele.errors import InvalidInput, Unavailable
from tele.web import offline
from tele.web.offline import TEMPLATE, page_of

PAGE = b"<a>@SECRETS@</a><b>@RECORDING@</b>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a page that was built."""
    (tmp_path / TEMPLATE).write_bytes(PAGE)
    return tmp_path


def parts(page: bytes) -> tuple[bytes, bytes]:
    """What is in the two places."""
    secrets, recording = page.removeprefix(b"<a>").removesuffix(b"</b>").split(b"</a><b>")
    return secrets, recording


def test_the_recording_is_in_the_page(folder: Path) -> None:
    """However the file is divided, all of it is there, with the keys of a sealed recording."""
    tape = bytes(range(256)) * 3
    for step in (1, 2, 3, 100, len(tape)):
        pieces = (tape[at : at + step] for at in range(0, len(tape), step))
        secrets, recording = parts(b"".join(page_of(pieces, {1: b"key"}, folder)))
        assert base64.b64decode(recording, validate=True) == tape
        assert json.loads(secrets) == {"1": base64.b64encode(b"key").decode()}


def test_nothing_of_a_recording_is_markup(folder: Path) -> None:
    """A session that shows the end of a script, or where a part goes, changes nothing (attack)."""
    hostile = b"</script><script>alert(1)</script>@SECRETS@@RECORDING@"
    page = b"".join(page_of([hostile], {}, folder))
    assert b"script" not in page
    assert base64.b64decode(parts(page)[1]) == hostile


def test_a_recording_that_is_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused as soon as that is known, with what to do instead."""
    monkeypatch.setattr(offline, "LIMIT", 10)
    with pytest.raises(InvalidInput, match="--format tape"):
        list(page_of([b"x" * 6, b"x" * 6], {}, folder))


def test_without_built_pages(tmp_path: Path) -> None:
    """An installation without pages says how to get them."""
    with pytest.raises(Unavailable, match="install tele from a wheel"):
        list(page_of([b"x"], {}, tmp_path))
