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


def _command(fields: dict[str, Any]) -> str:
    action = fields.get("action")
    if action == "exit":
        return ""
    words = fields.get("argv")
    shown = " ".join(map(_text, words)) if isinstance(words, list) else _text(fields.get("path"))
    if fields.get("failed") and fields.get("path"):  # a search along PATH: which one is not there
        rest = words[1:] if isinstance(words, list) else []
        shown = " ".join(map(_text, (fields["path"], *rest)))
    return _failing(f"{_text(action)} {shown}", fields)


def _executed(fields: dict[str, Any]) -> str:
    """Only what ran: a shell tries each folder of its path."""
    ran = fields.get("action") == "exec" and not fields.get("failed")
    return _command(fields) if ran else ""


def _disk(fields: dict[str, Any]) -> str:
    to = f" -> {_text(fields['to'])}" if fields.get("to") else ""
    return _failing(f"{_text(fields.get('action'))} {_text(fields.get('path'))}{to}", fields)


def _network(fields: dict[str, Any]) -> str:
    where = _text(fields.get("address") or fields.get("local"))
    said = f"{_text(fields.get('action'))} {_text(fields.get('socket'))} {where}"
    return _failing(said, fields)


def _syscalls(fields: dict[str, Any]) -> str:
    counts = fields.get("counts")
    if not isinstance(counts, list):
        return _failing(f"system call {_text(fields.get('action'))}", fields)
    shown = [f"{_text(c.get('name'))} {_text(c.get('calls'))}" for c in counts if type(c) is dict]
    return f"system calls of {_text(fields.get('program'))}: {_joined(*shown)}"


def _hand_over(fields: dict[str, Any]) -> str:
    return f"hand-over to {_text(fields.get('action'))} {_text(fields.get('path'))}"


def _join(fields: dict[str, Any]) -> str:
    who, mode = _text(fields.get("user")), _text(fields.get("mode"))
    return f"{who} joined the session ({mode}) from {_text(fields.get('remote_addr'))}"


def _leave(fields: dict[str, Any]) -> str:
    return f"{_text(fields.get('user'))} left the session: {_text(fields.get('reason'))}"


def _failing(said: str, fields: dict[str, Any]) -> str:
    return f"{said}: {_text(fields['failed'])}" if fields.get("failed") else said


#: Kinds of what the kernel reports of programs, which may be very many.
TRACED: Final[dict[FrameKind, Callable[[dict[str, Any]], str]]] = {
    FrameKind.COMMAND: _command,
    FrameKind.DISK: _disk,
    FrameKind.NETWORK: _network,
    FrameKind.SYSCALLS: _syscalls,
    FrameKind.HANDOVER: _hand_over,
}


def traced_text(kind: FrameKind, fields: dict[str, Any]) -> str:
    """Return in words what a traced program did, by the fields of its frame."""
    return printable(TRACED[kind](fields))


_MAKERS: Final[dict[FrameKind, Callable[[dict[str, Any]], str]]] = {
    FrameKind.OPEN: _open,
    FrameKind.TRANSFER: _transfer,
    FrameKind.CAPTURE: _capture,
    FrameKind.EXIT: _exit,
    FrameKind.GAP: _gap,
    FrameKind.PAUSE: _pause,
    FrameKind.HOST: _host,
    FrameKind.JOIN: _join,
    FrameKind.LEAVE: _leave,
    FrameKind.COMMAND: _executed,
    FrameKind.HANDOVER: _hand_over,
}


def opens_terminal(frame: Frame) -> bool:
    """Whether a frame opens a channel with a terminal."""
    return frame.kind is FrameKind.OPEN and bool(terminal(details(frame)))
