"""What does a frame without terminal output say, in one line for a person?

Invariant: a line has printable characters only, whatever the recording holds, and a bounded length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tele.model.frame import Frame, FrameKind
from tele.tape.details import details, terminal
from tele.text import printable

#: Characters of one line, and of one value in it.
LINE_LIMIT: Final = 1000
VALUE_LIMIT: Final = 400
#: Ranges of lost frames that a line names.
RANGES_LIMIT: Final = 8


def summary(frame: Frame) -> str:
    """Return the line of a frame, or nothing if it has none, as what a terminal shows."""
    make = _MAKERS.get(frame.kind)
    return "" if make is None else printable(make(details(frame)))[:LINE_LIMIT]


def _text(value: object) -> str:
    text = value if isinstance(value, str) else "" if value is None else str(value)
    return text if len(text) <= VALUE_LIMIT else text[: VALUE_LIMIT - 3] + "..."


def _count(value: object) -> str:
    return f"{value:,} bytes" if isinstance(value, int) else ""


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _named(name: str, value: object) -> str:
    return f"{name} {_text(value)}" if value not in (None, "") else ""


def _open(fields: dict[str, Any]) -> str:
    if terminal(fields) or fields.get("kind") == "forward":
        return ""
    return _joined(f"{_text(fields.get('kind'))} {_text(fields.get('command'))}".strip())


def _transfer(fields: dict[str, Any]) -> str:
    op = fields.get("op")
    what = op if op == "open" else fields.get("direction") or op
    path = _text(fields.get("path"))
    if fields.get("to"):
        path = f"{path} to {_text(fields['to'])}"
    said = _joined(
        f"{_text(fields.get('protocol'))} {_text(what)} {path}".strip(),
        _count(fields.get("bytes")),
        _named("mode", fields.get("mode")),
        _named("sha256", fields.get("sha256")),
    )
    return f"{said}: {_text(fields.get('result'))}" if fields.get("result") else said


def _capture(fields: dict[str, Any]) -> str:
    if not fields.get("bytes") or fields.get("so_far"):
        return ""
    return f"{_text(fields.get('stream'))}: " + _joined(
        _count(fields.get("bytes")), _named("sha256", fields.get("sha256"))
    )


def _exit(fields: dict[str, Any]) -> str:
    if fields.get("signal"):
        return f"ended by signal {_text(fields['signal'])}"
    return f"exit status {_text(fields.get('status'))}"


def _gap(fields: dict[str, Any]) -> str:
    lost = fields.get("lost")
    counts = lost.items() if isinstance(lost, dict) else ()
    shown = [f"{_count(n)} of {_text(kind)}" for kind, n in counts]
    ranges = fields.get("frames")
    if isinstance(ranges, list) and ranges:
        named = [_range(each) for each in ranges[:RANGES_LIMIT]]
        if len(ranges) > RANGES_LIMIT:
            named.append(f"and {len(ranges) - RANGES_LIMIT} more ranges")
        shown.append(f"frames {_joined(*named)} lost")
    return f"not recorded: {_joined(*shown[:8], _text(fields.get('reason')))}"


def _range(value: object) -> str:
    if not isinstance(value, list) or len(value) != 2:
        return "?"
    first, last = value
    return _text(first) if first == last else f"{_text(first)} to {_text(last)}"


def _pause(fields: dict[str, Any]) -> str:
    reason = _text(fields.get("reason"))
    return f"output {_text(fields.get('state'))}" + (f": {reason}" if reason else "")


def _host(fields: dict[str, Any]) -> str:
    return "target " + _joined(
        _text(fields.get("target")), _text(fields.get("address")), _text(fields.get("fingerprint"))
    )


_MAKERS: Final[dict[FrameKind, Callable[[dict[str, Any]], str]]] = {
    FrameKind.OPEN: _open,
    FrameKind.TRANSFER: _transfer,
    FrameKind.CAPTURE: _capture,
    FrameKind.EXIT: _exit,
    FrameKind.GAP: _gap,
    FrameKind.PAUSE: _pause,
    FrameKind.HOST: _host,
}


def opens_terminal(frame: Frame) -> bool:
    """Whether a frame opens a channel with a terminal."""
    return frame.kind is FrameKind.OPEN and bool(terminal(details(frame)))
