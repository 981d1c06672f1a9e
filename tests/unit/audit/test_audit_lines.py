"""Which events are lines of the log?"""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from twisted.logger import globalLogPublisher

from tele.audit.chain import event
from tele.audit.lines import log_event
from tele.log import LineObserver, LogFormat

MOMENT = datetime(2026, 11, 24, 12, tzinfo=UTC)


def written(form: LogFormat, name: str, **fields: object) -> str:
    """Return what is in the log after an event."""
    stream = io.StringIO()
    observer = LineObserver(stream, form, "info")
    globalLogPublisher.addObserver(observer)
    try:
        log_event(event(name, "e-1", MOMENT, "c", **fields))
    finally:
        globalLogPublisher.removeObserver(observer)
    return stream.getvalue()


def test_a_session_is_two_lines() -> None:
    """With who, as whom, from where, on which node and its id, to search for."""
    who = {"user": "alice", "login": "root", "remote_addr": "192.0.2.7:1", "server_name": "web1"}
    start = written(LogFormat.TEXT, "session.start", **who, session_id="s-1")
    assert (
        "session.start user=alice login=root node=web1 remote_addr=192.0.2.7:1 session_id=s-1\n"
    ) in start
    end = written(LogFormat.TEXT, "session.end", **who, seconds=1.5, error="locked", ok=False)
    assert "session.end user=alice" in end
    assert "ok=no error=locked seconds=1.5\n" in end


def test_fields_can_be_searched_as_json() -> None:
    """Each is a key of its own."""
    line = json.loads(
        written(LogFormat.JSON, "auth.denied", user="eve", reason="authority", error="no", ok=False)
    )
    assert (line["event"], line["user"], line["reason"], line["ok"]) == (
        "auth.denied", "eve", "authority", False,
    )  # fmt: skip


def test_texts_of_unauthenticated_clients_are_one_line_and_cut() -> None:
    """Names that unauthenticated clients chose for themselves (attack)."""
    evil = "x\n2026-01-01 error forged\x1b[2J" + "y" * 100_000
    text = written(LogFormat.TEXT, "auth.denied", user=evil, error=evil, ok=False, message=evil)
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert len(text) < 2000


@pytest.mark.parametrize("name", ["exec", "cert.issue", "clock.step", "recording.access"])
def test_others_are_in_the_audit_only(name: str) -> None:
    """The log is not a second audit."""
    assert written(LogFormat.TEXT, name, user="alice") == ""
