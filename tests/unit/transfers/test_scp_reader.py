"""What a reader of the old protocol of scp reports."""

from __future__ import annotations

import hashlib

import pytest
from attrs import define, field

from tele.model.session import Launched
from tele.model.transfer import Transfer
from tele.transfers import scp
from tele.transfers.choosing import observer_of
from tele.transfers.observer import Observer

#: Who sends: the client, or the server.
CLIENT, SERVER = "client", "server"
OK = b"\0"


@define
class World:
    """The streams of a command, in pieces of ``piece`` bytes."""

    command: str
    piece: int = 1 << 20
    reported: list[Transfer] = field(factory=list)
    broken: list[str] = field(factory=list)
    observer: Observer = field(init=False)

    def __attrs_post_init__(self) -> None:
        launched = Launched("exec", self.command.encode())
        self.observer = observer_of(launched, self.reported.append, self.broken.append)

    def say(self, *said: tuple[str, bytes]) -> None:
        for who, data in said:
            take = self.observer.input if who == CLIENT else self.observer.output
            for at in range(0, len(data), self.piece):
                take(memoryview(data)[at : at + self.piece])


def sent(sender: str, *lines: bytes) -> list[tuple[str, bytes]]:
    """Return what passes when one side sends these, and the other confirms each."""
    other = SERVER if sender == CLIENT else CLIENT
    said = [(other, OK)]
    for line in lines:
        said += [(sender, line), (other, OK)]
    return said


CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = (b"C0644 10240 name\n", CONTENT + OK)


@pytest.mark.parametrize("piece", [1, 3, 1 << 20])
def test_an_upload(piece: int) -> None:
    """A file with times, and an empty one."""
    world = World("scp -p -t /tmp/there", piece)
    empty = (b"C0600 0 a b\n", OK)
    world.say(*sent(CLIENT, b"T1700000000 0 1700000000 0\n", *FILE, *empty))
    world.observer.ended("ok")
    assert world.reported == [
        Transfer("scp", "write", "name", "/tmp/there", "upload", 10240, "0644", "ok", SHA256),
        Transfer(
            "scp", "write", "a b", "/tmp/there", "upload", 0, "0600", "ok",
            hashlib.sha256().hexdigest(),
        ),
    ]  # fmt: skip
    assert world.broken == []


@pytest.mark.parametrize("piece", [1, 3, 1 << 20])
@pytest.mark.parametrize("command", ["scp -r -f '/srv/the tree'", "./innocent", "nice scp -f"])
def test_a_download_of_a_tree(piece: int, command: str) -> None:
    """Folders are in the paths; the command line is used if it fits, and not needed."""
    world = World(command, piece)
    lines = (b"D0755 0 the tree\n", b"D0700 0 deep\n", *FILE, b"E\n", *FILE, b"E\n")
    world.say(*sent(SERVER, *lines))
    root = "/srv/the tree" if "tree" in command else "the tree"
    assert [(t.op, t.path, t.direction, t.sha256) for t in world.reported] == [
        ("list", root, "", ""),
        ("list", f"{root}/deep", "", ""),
        ("read", f"{root}/deep/name", "download", SHA256),
        ("read", f"{root}/name", "download", SHA256),
    ]
    assert world.broken == []


def test_what_is_refused() -> None:
    """By the receiver before or after the content, or by the sender; no SHA-256 then."""
    world = World("scp -t /x")
    world.say((SERVER, OK), (CLIENT, FILE[0]), (SERVER, b"\1scp: /x: Permission denied\n"))
    world.say((CLIENT, FILE[0]), (SERVER, OK), (CLIENT, FILE[1]), (SERVER, b"\1scp: No space\n"))
    world.say((CLIENT, FILE[0]), (SERVER, OK), (CLIENT, CONTENT + b"\1scp: bad disk\n"))
    world.say((SERVER, OK), (CLIENT, FILE[0]), (SERVER, OK), (CLIENT, CONTENT))
    world.observer.ended("signal HUP")
    assert [(t.bytes, t.result, t.sha256) for t in world.reported] == [
        (0, "scp: /x: Permission denied", ""),
        (10240, "scp: No space", ""),
        (10240, "scp: bad disk", ""),
        (10240, "signal HUP", ""),
    ]
    assert world.broken == []


def test_a_file_that_is_not_there() -> None:
    """A download that fails is told, with the path that was asked for."""
    world = World("scp -f /nope")
    world.say((CLIENT, OK), (SERVER, b"\1scp: /nope: No such file or directory\n"))
    (told,) = world.reported
    assert (told.op, told.path) == ("read", "/nope")
    assert told.result == "scp: /nope: No such file or directory"


BROKEN = {
    "does not wait": [(CLIENT, FILE[0] + CONTENT)],
    "no line": [(CLIENT, b"X0644 1 name\n")],
    "a path": [(CLIENT, b"C0644 1 ../name\n")],
    "a long line": [(CLIENT, b"C0644 1 " + b"x" * scp.LINE_LIMIT)],
    "an end": [(CLIENT, b"E\n")],
    "a reply to nothing": [(SERVER, OK)],
    "another reply": [(SERVER, b"hello")],
}


@pytest.mark.parametrize("how", list(BROKEN))
def test_what_cannot_be_read_is_told(how: str) -> None:
    """Once, and nothing is told of what follows."""
    world = World("scp -t /x")
    world.say(*sent(CLIENT, *FILE))
    world.say(*BROKEN[how])
    world.say(*BROKEN[how], (SERVER, OK), (CLIENT, FILE[0]))
    world.observer.ended("ok")
    assert len(world.broken) == 1
    assert len([t for t in world.reported if t.result == "ok"]) == 1


def test_folders_are_limited() -> None:
    """A client cannot make us keep names without end (attack)."""
    world = World("scp -r -t /x")
    world.say(*sent(CLIENT, *[b"D0755 0 d\n"] * (scp.DEPTH_LIMIT + 1)))
    assert world.broken == ["too many folders within folders"]


@pytest.mark.parametrize("said", [b"", b"hello\n", b"C0644 1 a\n", b"\0\0\0", b"\1no\n", b"T\n"])
def test_other_programs_are_none_of_its_business(said: bytes) -> None:
    """What is no scp leaves nothing."""
    world = World("cat")
    world.say((SERVER, said), (CLIENT, said), (SERVER, said))
    world.observer.ended("exit status 1")
    assert (world.reported, world.broken) == ([], [])


RSYNC = {
    "rsync --server -vlogDtpre.iLsfxC . /srv/dir": ("write", "upload", ["/srv/dir"], 3),
    "rsync --server --sender -vlogDtpre.iLsfxC . /a '/b c'": (
        "read", "download", ["/a", "/b c"], 5,
    ),
    "sudo /usr/bin/rsync --server . x": ("write", "upload", ["x"], 3),
    "rsync --server -s -e.LsfxC": ("write", "upload", [""], 3),
}  # fmt: skip


@pytest.mark.parametrize("command", list(RSYNC))
def test_rsync_is_counted(command: str) -> None:
    """Direction and paths are those of the command line, bytes those that passed."""
    op, direction, paths, count = RSYNC[command]
    world = World(command)
    world.say((CLIENT, b"123"), (SERVER, b"12345"))
    world.observer.ended("exit status 23")
    assert [(t.op, t.direction, t.path, t.bytes, t.result) for t in world.reported] == [
        (op, direction, path, count, "exit status 23") for path in paths
    ]


@pytest.mark.parametrize("command", ["rsync", "echo --server", "rsync --server '", "x" * 99999])
def test_what_is_not_rsync(command: str) -> None:
    """Other commands leave nothing, those that cannot be parsed either."""
    world = World(command)
    world.observer.ended("ok")
    assert world.reported == []


def test_a_command_that_names_rsync_hides_nothing() -> None:
    """What runs as scp is read as scp, whatever the command line says besides (attack)."""
    world = World(": rsync --server . x; exec scp -t /x")
    world.say(*sent(CLIENT, *FILE))
    world.observer.ended("ok")
    assert {t.protocol for t in world.reported} == {"scp", "rsync"}


@pytest.mark.parametrize("piece", [1, 1 << 20])
@pytest.mark.parametrize("count", [2, 5, scp.EARLY_LIMIT + 5])
def test_attack_replies_in_advance(piece: int, count: int) -> None:
    """A client that confirms before there is anything to confirm gets its files all the same: they
    are listed.
    """
    world = World("scp -f /srv/name", piece)
    world.say((CLIENT, OK * count), (SERVER, FILE[0]))
    if count < 3:
        world.say((CLIENT, OK))
    world.say((SERVER, FILE[1]), (CLIENT, OK))
    assert [(t.path, t.bytes, t.sha256) for t in world.reported] == [("/srv/name", 10240, SHA256)]
    assert world.broken == []


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("begin", [b"", OK])
def test_attack_a_sender_that_does_not_wait(piece: int, begin: bytes) -> None:
    """What it sends cannot be read, since that depends on the replies; that is told as soon as the
    program shows that it takes files.
    """
    world = World("./innocent", piece)
    world.say((SERVER, begin), (CLIENT, b"".join(FILE)))
    assert world.broken == []
    world.say((SERVER, OK * 3), (CLIENT, b"more"), (SERVER, OK))
    assert world.broken == [scp.AHEAD]


def test_a_program_that_is_sent_what_looks_like_scp() -> None:
    """It is no scp as long as the program says nothing that is."""
    world = World("./innocent")
    world.say((CLIENT, b"".join(FILE)), (SERVER, b"thank you\n"), (CLIENT, OK))
    world.observer.ended("ok")
    assert (world.reported, world.broken) == ([], [])
