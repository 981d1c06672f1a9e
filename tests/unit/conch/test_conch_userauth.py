"""Reading requests to log in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tele.conch.connection.refusals import terminal_lines
from tele.conch.server.userauth import BANNER_LIMIT, HOSTBOUND, PUBLICKEY, read_key_request
from tele.errors import ProtocolError
from tele.wire.fields import boolean, string

HEAD = string(b"root") + string(b"ssh-connection")


def test_an_unsigned_request() -> None:
    """An unsigned request queries whether the key is acceptable."""
    packet = HEAD + string(PUBLICKEY) + boolean(False) + string(b"alg") + string(b"blob")
    request = read_key_request(packet)
    assert (request.login, request.algorithm, request.blob) == ("root", b"alg", b"blob")
    assert request.signature is None
    assert request.host_key is None


def test_what_is_signed() -> None:
    """The signature covers the request as sent, up to itself, with the host key if there."""
    body = HEAD + string(HOSTBOUND) + boolean(True) + string(b"alg") + string(b"blob")
    request = read_key_request(body + string(b"host") + string(b"signature"))
    assert request.host_key == b"host"
    assert request.signature == b"signature"
    assert request.signed == b"\x32" + body + string(b"host")


@pytest.mark.parametrize("login", [b"\xff", b"a\nb", b"a\x00", "a\u202eb".encode(), b"x" * 257])
def test_names_that_are_none(login: bytes) -> None:
    """A login name is printable text of some length."""
    packet = string(login) + string(b"ssh-connection") + string(PUBLICKEY) + boolean(False)
    with pytest.raises(ProtocolError):
        read_key_request(packet + string(b"alg") + string(b"blob"))


@given(st.data())
def test_any_cut_is_refused(data: st.DataObject) -> None:
    """A request that lost bytes, or got more, is refused."""
    packet = HEAD + string(PUBLICKEY) + boolean(True) + string(b"alg") + string(b"blob")
    packet += string(b"signature")
    cut = data.draw(st.integers(0, len(packet) - 1))
    with pytest.raises(ProtocolError):
        read_key_request(packet[:cut])
    with pytest.raises(ProtocolError):
        read_key_request(packet + data.draw(st.binary(min_size=1)))


def test_terminal_lines() -> None:
    """Texts for a terminal keep their lines, and what would move the cursor is shown."""
    assert terminal_lines("one\ntwo\x1b[2J\u202e") == rb"one|two\x1b[2J\u202e|".replace(
        b"|", b"\r\n"
    )
    assert len(terminal_lines("x" * 10_000, BANNER_LIMIT)) <= BANNER_LIMIT + 2
