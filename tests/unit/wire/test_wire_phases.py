"""Which messages are admitted when."""

from __future__ import annotations

import pytest

from tele.errors import ProtocolError
from tele.wire import numbers as n
from tele.wire.phases import FROM_CLIENT, FROM_SERVER, MessageFilter, Phase

TO_SERVER = [n.KEXINIT, n.KEX_INIT, n.NEWKEYS, n.EXT_INFO, n.SERVICE_REQUEST]
TO_CLIENT = [n.KEXINIT, n.KEX_REPLY, n.NEWKEYS, n.EXT_INFO, n.SERVICE_ACCEPT]


def server_at(count: int) -> MessageFilter:
    messages = MessageFilter(FROM_CLIENT)
    for number in TO_SERVER[:count]:
        assert messages.admit(number)
    return messages


def server_open() -> MessageFilter:
    messages = server_at(len(TO_SERVER))
    assert messages.admit(n.USERAUTH_REQUEST)
    messages.authenticated()
    return messages


def test_the_way_of_a_server() -> None:
    """The table leads from the first KEXINIT to an open connection and through a rekey."""
    messages = server_open()
    seen = []
    for number in (n.CHANNEL_OPEN, n.KEXINIT, n.IGNORE, n.KEX_INIT, n.NEWKEYS, n.CHANNEL_DATA):
        assert messages.admit(number)
        seen.append(messages.phase)
    assert seen == [
        Phase.OPEN,
        Phase.REKEX,
        Phase.REKEX,
        Phase.RENEWKEYS,
        Phase.OPEN,
        Phase.OPEN,
    ]


def test_the_way_of_a_client() -> None:
    """A client opens by the server's USERAUTH_SUCCESS."""
    messages = MessageFilter(FROM_SERVER)
    for number in (*TO_CLIENT, n.USERAUTH_BANNER, n.USERAUTH_SUCCESS, n.CHANNEL_DATA):
        assert messages.admit(number)
    assert messages.phase is Phase.OPEN


@pytest.mark.parametrize("count", [0, 1, 2])
def test_first_exchange_admits_nothing_else(count: int) -> None:
    """Strict: until the first NEWKEYS only the next message of the exchange, or the end (S3)."""
    for number in range(256):
        if number in (TO_SERVER[count], n.DISCONNECT):
            continue
        with pytest.raises(ProtocolError):
            server_at(count).admit(number)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_nothing_of_the_connection_before_authentication(count: int) -> None:
    """Before authentication there are no channels, no global requests and no new keys (S3)."""
    for number in (*range(80, 101), n.KEXINIT, n.NEWKEYS, n.KEX_INIT, n.USERAUTH_SUCCESS, 255):
        with pytest.raises(ProtocolError):
            server_at(count).admit(number)


def test_no_second_authentication() -> None:
    """After authentication a service request ends the connection; a late request passes (S7)."""
    messages = server_open()
    assert messages.admit(n.USERAUTH_REQUEST)
    assert messages.phase is Phase.OPEN
    for number in (n.SERVICE_REQUEST, n.SERVICE_ACCEPT, n.USERAUTH_SUCCESS, n.EXT_INFO, n.NEWKEYS):
        with pytest.raises(ProtocolError):
            server_open().admit(number)


def test_no_data_between_kexinit_and_newkeys() -> None:
    """A peer that began an exchange finishes it before it sends anything else."""
    for number in (n.CHANNEL_DATA, n.CHANNEL_OPEN, n.GLOBAL_REQUEST, n.KEXINIT, n.PING, 200):
        messages = server_open()
        messages.admit(n.KEXINIT)
        with pytest.raises(ProtocolError):
            messages.admit(number)


def test_unknown_messages() -> None:
    """Once open, a number that SSH does not know is admitted as unknown."""
    messages = server_open()
    assert not messages.admit(200)
    assert not messages.admit(101)
    assert messages.admit(n.PING)


def test_authenticated_only_once_and_in_time() -> None:
    """Success belongs to the authentication phase."""
    with pytest.raises(ProtocolError):
        server_at(3).authenticated()
    with pytest.raises(ProtocolError):
        server_open().authenticated()
