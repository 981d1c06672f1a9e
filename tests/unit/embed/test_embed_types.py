"""What a type checker of an embedder sees: mypy reads this file with all others (strict)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import assert_type

from twisted.internet.defer import Deferred

from tele import embed
from tele.auth.service import AuthService
from tele.embed import (
    Address,
    AuthConfig,
    HostService,
    Loaded,
    NodeConfig,
    ProxyConfig,
    auth_service,
    load_config,
    node_service,
    proxy_service,
    read_address,
    ssh,
)
from tele.embed.ssh import Exit, HostKeys, PrivateKey, Result, execute
from tele.embed.ssh.factory import SSHFactory
from tele.errors import InvalidInput
from tele.interfaces import IRecorder
from tele.testing import Ends, MemoryRecorder, World


def embedder(connection: object) -> None:
    """Never called: a program as a type checker reads it."""
    from twisted.internet import reactor

    folder = Path()
    assert_type(read_address("a:1"), Address)
    assert_type(load_config(folder), Loaded)
    assert_type(auth_service(reactor, AuthConfig("c"), folder), AuthService)
    assert_type(node_service(reactor, NodeConfig(), folder), HostService)
    assert_type(proxy_service(reactor, ProxyConfig(), folder), HostService)
    assert_type(execute(connection, b"true"), Deferred[Result])
    assert_type(Result(b"", b"", Exit(0)).exit, Exit)
    assert_type(HostKeys(PrivateKey.generate()).private, PrivateKey)
    assert_type(SSHFactory().best_host_key(), HostKeys)
    assert_type(World().connect(), Ends)
    recorder: IRecorder = MemoryRecorder()
    assert_type(node_service(reactor, NodeConfig(), folder, recorder=recorder), HostService)


def test_the_package_says_that_it_is_typed() -> None:
    """An embedder's type checker reads our annotations (PEP 561)."""
    assert files("tele").joinpath("py.typed").is_file()
    assert InvalidInput.__mro__


def test_all_names_are_there() -> None:
    """Every public name exists; our classes and functions have docstrings."""
    for module in (embed, ssh):
        for name in module.__all__:
            assert getattr(module, name).__doc__, name
