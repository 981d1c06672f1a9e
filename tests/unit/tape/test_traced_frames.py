"""What traced programs did: in words, in the index of a recording, and searched by address."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tele.cli.recordings_search import addresses
from tele.errors import InvalidInput
from tele.model.frame import Frame, FrameKind
from tele.snapshots.builder import TRACED_MARKS, IndexBuilder
from tele.tape.exports.json_lines import json_lines
from tele.tape.exports.summary import summary, traced_text
from tele.tape.exports.text import text
from tele.tape.index import MarkKind, read_index
from tele.tape.layout import pack_chunk_2, pack_frames, read_chunk

EVIL = "a\x1b[2J\u202e"


def frame(kind: FrameKind, number: int = 1, **fields: Any) -> Frame:
    return Frame(number, 1, kind, json.dumps(fields).encode(), number)


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (FrameKind.COMMAND, {"action": "exec", "argv": ["ls", "-l"]}, "exec ls -l"),
        (
            FrameKind.COMMAND,
            {"action": "exec", "path": "/bin/x", "argv": ["x", "-a"], "failed": "ENOENT"},
            "exec /bin/x -a: ENOENT",
        ),
        (FrameKind.DISK, {"action": "rename", "path": "/a", "to": "/b"}, "rename /a -> /b"),
        (
            FrameKind.NETWORK,
            {"action": "connect", "socket": "stream", "address": "[::1]:80", "failed": "EACCES"},
            "connect stream [::1]:80: EACCES",
        ),
        (FrameKind.HANDOVER, {"action": "cron", "path": "/x"}, "hand-over to cron /x"),
        (
            FrameKind.SYSCALLS,
            {"action": "counts", "program": "ls", "counts": [{"name": "read", "calls": 3}]},
            "system calls of ls: read 3",
        ),
    ],
)  # fmt: skip
def test_each_kind_is_a_line(kind: FrameKind, fields: dict[str, Any], words: str) -> None:
    """What was done, to what, and the error if it failed."""
    assert traced_text(kind, fields) == words


@pytest.mark.parametrize("kind", ["COMMAND", "DISK", "NETWORK", "SYSCALLS", "HANDOVER"])
def test_a_line_cannot_control_a_terminal(kind: str) -> None:
    """Names of files and arguments are what a program likes; fields may be of any type."""
    for value in (EVIL, [EVIL, 5, None], {"x": EVIL}, 7, None):
        fields = dict.fromkeys(
            ("action", "path", "to", "argv", "address", "counts", "failed", "program"), value
        )
        assert traced_text(FrameKind[kind], fields).isprintable()


def test_a_replay_lists_programs_and_not_each_file() -> None:
    """Thousands of files, and programs that are not in a folder of the path, would hide what the
    session showed; JSON has all of them.
    """
    frames = [
        frame(FrameKind.COMMAND, 1, action="exec", argv=["ls"], failed="ENOENT"),
        frame(FrameKind.COMMAND, 1, action="exec", argv=["ls"]),
        frame(FrameKind.COMMAND, 2, action="exit", status="0"),
        frame(FrameKind.DISK, 3, action="open", path="/etc/passwd"),
        frame(FrameKind.HANDOVER, 4, action="docker", path="/run/docker.sock"),
    ]
    assert "".join(text(frames)) == "[exec ls]\n[hand-over to docker /run/docker.sock]\n"
    assert [json.loads(line)["frame"] for line in json_lines(frames)] == [
        "command", "command", "command", "disk", "handover",
    ]  # fmt: skip
    assert summary(frames[3]) == ""


def indexed(frames: list[Frame]) -> list[tuple[MarkKind, str]]:
    """Return the marks of a recording with these frames."""
    raw, facts = pack_frames(frames)
    chunk = read_chunk(pack_chunk_2(raw, facts, 0, bytes(32), last=True), 0)
    builder = IndexBuilder(lambda *_: pytest.fail("no terminal"), lambda *_: None)
    builder.add(chunk)
    return [(each.kind, each.text) for each in read_index(builder.pack()).marks]


def test_the_index_has_what_is_searched() -> None:
    """Each text once, and no ends of processes."""
    frames = [
        frame(FrameKind.COMMAND, 1, action="exec", argv=["curl", "x"]),
        frame(FrameKind.COMMAND, 2, action="exit", status="0"),
        *(frame(FrameKind.DISK, n, action="open", path="/etc/shadow") for n in (3, 4)),
        frame(FrameKind.NETWORK, 5, action="connect", socket="stream", address="203.0.113.5:80"),
        frame(FrameKind.HANDOVER, 6, action="cron", path="/etc/crontab"),
    ]
    assert indexed(frames) == [
        (MarkKind.COMMAND, "exec curl x"),
        (MarkKind.PATH, "open /etc/shadow"),
        (MarkKind.CONNECTION, "connect stream 203.0.113.5:80"),
        (MarkKind.COMMAND, "hand-over to cron /etc/crontab"),
    ]


def test_opening_many_files_hides_no_command() -> None:
    """Each kind has its share of the index."""
    frames = [
        frame(FrameKind.DISK, n + 1, action="open", path=f"/{n}") for n in range(TRACED_MARKS + 9)
    ]
    last = len(frames) + 1
    frames.append(frame(FrameKind.COMMAND, last, action="exec", argv=["curl"]))
    marks = indexed(frames)
    assert len(marks) == TRACED_MARKS + 1
    assert marks[-1] == (MarkKind.COMMAND, "exec curl")


@pytest.mark.parametrize(
    ("wanted", "sought", "fitting", "other"),
    [
        ("203.0.113.0/24", "203.0.113.", "connect x 203.0.113.9:80", "connect x 8.203.0.113:80"),
        ("10.0.0.0/8", "10.", "connect stream 10.9.8.7:1", "connect stream 8.10.2.1:1"),
        ("198.50.0.0/15", "198.", "connect stream 198.51.5.5:1", "connect stream 198.52.5.5:1"),
        ("2001:db8::/32", "2001:db8:", "bind x [2001:db8:7::1]:53", "bind x [2001:db9::1]:53"),
        ("::1/128", "[::", "connect x [::1]:80", "connect x [::2]:80"),
        ("192.0.2.7/32", "192.0.2.7", "connect stream 192.0.2.7:1", "connect stream 192.0.2.77:1"),
    ],
)  # fmt: skip
def test_a_network_is_searched(wanted: str, sought: str, fitting: str, other: str) -> None:
    """By what its addresses have in common; each line is compared with the network then."""
    text, fits = addresses(wanted)
    assert text == sought
    assert (fits(fitting), fits(other), fits("connect unix /run/x")) == (True, False, False)


@pytest.mark.parametrize("wanted", ["203.0.113.5/24", "10.0.0.0/4", "x/8", "::/0"])
def test_what_is_no_network_is_refused(wanted: str) -> None:
    """And what has no address in common."""
    with pytest.raises(InvalidInput, match="--connect"):
        addresses(wanted)
