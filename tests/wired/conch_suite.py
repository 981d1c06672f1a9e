"""Twisted's own test cases for Conch, with our classes in the place of Conch's.

A module of Twisted's tests is run from where it is installed; what it imports from
``twisted.conch.ssh`` comes from ``tele.embed.ssh`` where that has the name. What its fakes
lack of what ours ask of a transport is added, and nothing else is changed.
"""

from __future__ import annotations

import builtins
import importlib
import tomllib
import unittest
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import frozen
from twisted.conch.ssh.keys import Key
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tele.admission.limits import Limits
from tele.certs.keys import PrivateKey
from tele.conch.transport.transport import Transport
from tele.embed.ssh.factory import SSHFactory
from tele.embed.ssh.transport import SSHServerTransport
from tele.wire.fields import string, uint32

#: Which modules of Conch's are ours in which module of tests.
SUBSTITUTES = {
    "test_userauth": ("userauth",),
    "test_connection": ("connection", "channel"),
    "test_channel": ("channel", "connection", "transport"),
    "test_session": ("session", "connection"),
    "test_transport": ("transport", "factory"),
}
#: Tests of what is Conch's own and stays so.
NOT_OURS = ("GetMACTests", "SSHCiphersTests")
_CONCH = "twisted.conch.ssh"
_TESTS = "twisted.conch.test"

DIFFERENCES = Path(__file__).resolve().parents[2] / "docs" / "conch_differences.toml"


@frozen
class Difference:
    """Tests that are expected to fail, and the reason."""

    reason: str
    tests: tuple[str, ...]


def read_differences(path: Path = DIFFERENCES) -> tuple[Difference, ...]:
    """Return the intended differences."""
    with path.open("rb") as file:
        return tuple(
            Difference(each["reason"], tuple(each["tests"]))
            for each in tomllib.load(file)["difference"]
        )


@cache
def _with_ours(name: str) -> ModuleType:
    """Return Conch's module ``name`` with our classes in the place of Conch's."""
    theirs = importlib.import_module(f"{_CONCH}.{name}")
    ours = importlib.import_module(f"tele.embed.ssh.{name}")
    made = ModuleType(theirs.__name__)
    vars(made).update(vars(theirs))
    vars(made).update({each: getattr(ours, each) for each in ours.__all__})
    if name == "transport":
        for each in ("SSHTransportBase", "SSHServerTransport", "SSHClientTransport"):
            setattr(made, each, _without_reactor(getattr(ours, each)))
    return made


def _without_reactor(kind: Any) -> Any:
    """Return a transport with a clock of its own: Twisted's tests leave no time-outs behind."""

    def __init__(self: Any) -> None:
        kind.__init__(self, *([Clock()] if kind is Transport else []))
        self.clock = Clock()

    names: dict[str, Any] = {"__init__": __init__}
    if kind is Transport:
        names |= {"our_markers": (b"ext", b"strict"), "peer_markers": (b"ext", b"strict")}
        names["host_key_algorithms"] = lambda self: (b"ssh-ed25519",)
    if kind is SSHServerTransport:
        names["factory"] = _factory()
    return type(kind.__name__, (kind,), names)


def _factory() -> Any:
    """Return a factory for servers that get theirs when they are connected already."""
    made: Any = SSHFactory()
    made.privateKeys = {b"ssh-ed25519": Key.fromString(PrivateKey.generate().to_openssh())}
    return made


@cache
def load(name: str) -> ModuleType:
    """Return a module of Twisted's tests, its imports changed."""
    substitutes = SUBSTITUTES[name]

    def take(wanted: str, *args: Any, **named: Any) -> Any:
        package, _, last = wanted.rpartition(".")
        if package == _CONCH and last in substitutes:
            return _with_ours(last)
        found = builtins.__import__(wanted, *args, **named)
        names = args[2] if len(args) > 2 else ()
        if wanted not in (_CONCH, _TESTS) or not names:
            return found
        changed = ModuleType(wanted)
        vars(changed).update({each: getattr(found, each) for each in names})
        for each in names:
            if wanted == _CONCH and each in substitutes:
                setattr(changed, each, _with_ours(each))
            elif wanted == _TESTS and each in SUBSTITUTES:
                setattr(changed, each, load(each))
        return changed

    found = find_spec(f"{_TESTS}.{name}")
    assert found is not None
    assert found.origin is not None
    module = ModuleType(f"ours.{name}")
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": take}
    source = Path(found.origin).read_text()
    exec(compile(source, found.origin, "exec"), vars(module))
    if name == "test_userauth":
        _complete(module.FakeTransport)
    return module


def _complete(fake: Any) -> None:
    """Add to a fake of Conch's transport what our services need of one."""

    def nothing(*args: Any) -> None:
        """Nothing."""

    for name in ("hold", "release", "authenticated"):
        setattr(fake, name, nothing)
    fake.closing = fake.isAuthenticated = False
    fake.limits = Limits(attempts=21)
    fake.clock = Clock()
    fake.first_host_key = b""
    fake.peerExtensions = {b"server-sig-algs": b""}
    fake.remote_addr = lambda self: ("192.0.2.1", 1)
    fake.Factory.on_denied = nothing
    fake.can_send = lambda self: True
    fake.ready_observers = set()

    def send_data(self: Any, channel: int, view: Any, extended: int | None = None) -> None:
        code = b"" if extended is None else uint32(extended)
        number = 94 if extended is None else 95
        self.sendPacket(number, uint32(channel) + code + string(bytes(view)))

    fake.send_data = send_data


def cases() -> Iterator[tuple[str, unittest.TestCase]]:
    """Yield every test with its name, ``module.Class.test``."""
    differ = {test for each in read_differences() for test in each.tests}
    for name in SUBSTITUTES:
        for kind in vars(load(name)).values():
            if not (isinstance(kind, type) and issubclass(kind, SynchronousTestCase)):
                continue
            if kind.__module__ == f"ours.{name}" and kind.__name__ not in NOT_OURS:
                for test in sorted(n for n in dir(kind) if n.startswith("test")):
                    case: Any = kind(test)
                    full = f"{name}.{kind.__name__}.{test}"
                    # One that differs may do so by waiting for what never comes.
                    case.timeout = 2 if full in differ else 20
                    yield full, case


def run(case: unittest.TestCase) -> str:
    """Run one test; return what failed, or nothing."""
    result = unittest.TestResult()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        case.run(result)
    return "\n".join(text for _, text in result.failures + result.errors)
