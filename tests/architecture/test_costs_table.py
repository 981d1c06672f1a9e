"""The table of what entry points may cost says what the source says, number by number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tele.admission import limits, penalties
from tele.admission.member_sources import MEMBER_SOURCE_SECONDS
from tele.certs import certificate
from tele.conch.connection import channel as channels
from tele.conch.connection import channel_opening as opening
from tele.conch.connection import channel_table
from tele.conch.connection.global_replies import GLOBAL_REQUESTS_LIMIT
from tele.conch.connection.host_key_proofs import PROOFS_LIMIT
from tele.conch.connection.windows import MIN_WINDOW
from tele.conch.forwarding import listening
from tele.conch.server import connection_admission
from tele.conch.server.userauth import LOGIN_LIMIT
from tele.conch.session import channel as session
from tele.conch.session import session_requests
from tele.model import addresses
from tele.model.resources import MAX_FORWARDS
from tele.node import forwards, realm
from tele.outbound import name_lookup
from tele.proxy import (
    admission,
    audit,
    client_hello,
    demultiplexer,
    pages,
    tls_routes,
    user_limits,
)
from tele.routing import dialer, finder, index
from tele.sessions import forward_record, join_runner, sharing
from tele.sessions.admission import RECORD_SECONDS
from tele.spawner import sftp_server
from tele.tunnel import acceptor, client_address, relayed_channels
from tele.web import websocket
from tele.wire import fields, proxy_header, version

DOCS = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "attacks.rst"
TITLE = "What each entry point of proxies and nodes may cost"

KIB, MIB = 1024, 1024 * 1024
USUAL = limits.Limits()
MEMBER_FACTOR = USUAL.startups_per_member // USUAL.startups_per_source


def number(value: float) -> str:
    return f"{value:g}" if value < 1 else str(int(value))


def seconds(value: float) -> str:
    return f"{number(value)} s"


def kib(value: int) -> str:
    assert value % KIB == 0
    return f"{value // KIB} KiB"


def mib(value: int) -> str:
    assert value % MIB == 0
    return f"{value // MIB} MiB"


def at_once(burst: float, rate: float, what: str = "") -> str:
    return f"{number(burst)} {what}at once and {number(rate)} a second"


def slowly(burst: float, rate: float, what: str) -> str:
    return f"{number(burst)} {what} and {number(rate)} a second"


#: For each row what it has to say; no other number may be in it.
ROWS: dict[str, list[str]] = {
    "connection to a proxy, until it is known what it is": [
        f"{admission.PENDING_LIMIT} together",
        f"source: {admission.PENDING_PER_SOURCE},",
        f"member source: {admission.PENDING_PER_SOURCE * MEMBER_FACTOR}",
        f"{seconds(demultiplexer.UNDECIDED_SECONDS)} from the connection on",
        f"at most {kib(client_hello.LIMIT)}",
    ],
    "PROXY header": [
        f"{proxy_header.LINE_LIMIT} bytes of text, or {proxy_header.BLOCK_LIMIT} bytes",
        f"the same {seconds(demultiplexer.UNDECIDED_SECONDS)}",
    ],
    "TLS for the pages of a proxy": [
        f"a head of {kib(pages.PAGES.head_bytes)}",
        at_once(admission.TLS_BURST, admission.TLS_PER_SECOND),
        f"handshake {seconds(pages.PAGES.handshake.total_seconds())}",
        f"head {seconds(pages.PAGES.head.total_seconds())}",
        f"between requests {seconds(pages.PAGES.idle.total_seconds())}",
    ],
    "stream of a page for browsers to auth (WebSocket)": [
        f"a frame of {websocket.FRAME_LIMIT >> 20} MiB",
    ],
    "stream of a page for browsers to SSH (WebSocket)": [
        f"a frame of {websocket.FRAME_LIMIT >> 20} MiB",
    ],
    "TLS for auth, until auth has answered the end of the client's handshake": [
        f"{seconds(tls_routes.HANDSHAKE_SECONDS)} from the decision on",
    ],
    "TLS for auth, answered": [
        f"{admission.RELAYS_LIMIT}, or an eighth",
        f"source: {admission.RELAYS_PER_SOURCE},",
        f"member source: {admission.RELAYS_PER_SOURCE * MEMBER_FACTOR}",
        f"{seconds(tls_routes.RELAY_IDLE_SECONDS)} of silence",
        f"{seconds(tls_routes.HANDSHAKE_SECONDS)} to read the end",
    ],
    "SSH before login": [
        f"from {limits.PROXY_STARTUPS[0]} on refused by chance, {limits.PROXY_STARTUPS[2]} at most",
        f"node: {limits.STARTUPS[0]} and {limits.STARTUPS[2]}",
        f"version line {version.LINE_LIMIT} bytes",
        f"{USUAL.packets_before_auth} messages of {USUAL.packet_before_auth} bytes",
        f"lists of {fields.NAMES_LIMIT} names",
        f"source: {limits.STARTUPS_PER_SOURCE}, member source: {limits.STARTUPS_PER_MEMBER}",
        f"{limits.WAITING_PER_SOURCE} more of a source wait",
        f"{limits.WAITING} of all",
        f"up to {seconds(penalties.PenaltyRules().max)}",
        f"{seconds(USUAL.login_grace)} from the connection on",
    ],
    "request to log in": [
        f"{USUAL.attempts} attempts, {USUAL.queries} queries and {USUAL.foreign_keys} keys",
        f"certificate of {kib(certificate.SIZE_LIMIT)}",
        f"{certificate.PRINCIPALS_LIMIT} principals, {certificate.OPTIONS_LIMIT} options",
        f"login of {LOGIN_LIMIT} characters",
        f"the same {seconds(USUAL.login_grace)}",
    ],
    "account of a login": [
        f"{realm.ACCOUNT_THREADS} threads",
        f"user: {realm.ACCOUNT_THREADS_PER_USER} threads",
        f"{realm.ACCOUNTS_WAITING_PER_USER} that wait",
        seconds(realm.ACCOUNT_SECONDS),
    ],
    "client that a proxy relays to a node, before login": [
        f"{limits.STARTUPS[2]} at most",
        f"a statement of {client_address.LIMIT} bytes",
        f"states: {limits.STARTUPS_PER_MEMBER}; {limits.WAITING_PER_SOURCE} more wait",
        f"statement: {seconds(client_address.VALID_SECONDS)}",
        f"login: {seconds(USUAL.login_grace)}",
    ],
    "connections of users at a proxy": [
        f"user: {user_limits.CONNECTIONS_LIMIT}",
        "some 16 KiB",  # the target of bench/tunnels.py
    ],
    "channel through a proxy to a node": [
        f"{relayed_channels.CHANNELS_LIMIT} on one node's tunnel",
        f"{relayed_channels.PEER_CHANNELS_LIMIT} to another",
        f"user: {user_limits.CHANNELS_LIMIT}",
        f"together {mib(user_limits.WINDOWS_LIMIT)}, then {kib(MIN_WINDOW)} for each",
        f"{seconds(relayed_channels.OPEN_SECONDS)} to open",
        f"{seconds(dialer.ATTEMPT_SECONDS)} for an address",
    ],
    "lookup of a node at a proxy": [
        f"a name of {finder.TARGET_LIMIT} characters, {index.SELECTOR_LIMIT} labels",
        f"{index.CANDIDATES_LIMIT} nodes",
        at_once(user_limits.DECISIONS_BURST, user_limits.DECISIONS_PER_SECOND, "decisions "),
    ],
    "name in a node's addresses": [
        f"{name_lookup.THREADS} threads",
        f"{addresses.ADDRESSES_LIMIT} addresses",
        f"node: {name_lookup.THREADS_PER_KEY} threads, {name_lookup.WAITING_PER_KEY} that wait",
        f"{seconds(name_lookup.SECONDS)} within the {seconds(relayed_channels.OPEN_SECONDS)}",
        f"last for {seconds(dialer.AVOID_SECONDS)}",
    ],
    "logged in: messages of a connection": [
        f"{opening.CHANNELS_LIMIT} channels at a node",
        f"{GLOBAL_REQUESTS_LIMIT} requests that wait",
        f"{PROOFS_LIMIT} proofs",
        f"{mib(USUAL.unread_octets)} of replies",
        at_once(limits.REKEY_BURST, limits.REKEY_PER_SECOND),
        f"unless {kib(limits.EARNED_OCTETS)}",
        f"{mib(channel_table.WINDOW_LIMIT)} for a channel",
        f"{mib(channel_table.WINDOWS_LIMIT)} for a connection",
    ],
    "requests of a session": [
        f"{session.ENVIRONMENT_LIMIT} variables of {kib(session.STRING_LIMIT)} together",
        f"a command of {kib(session.STRING_LIMIT)}",
        f"{session_requests.MODES_LIMIT} terminal modes",
        f"{channels.REQUESTS_LIMIT} requests or {kib(channels.REQUEST_OCTETS_LIMIT)}",
    ],
    "file server": [
        f"packets of {kib(sftp_server.PACKET_LIMIT)}, {sftp_server.HANDLES_LIMIT} open files",
    ],
    "forward to a port": [
        f"{name_lookup.THREADS} threads",
        f"{addresses.ADDRESSES_LIMIT} addresses",
        f"user: {name_lookup.THREADS_PER_KEY} threads, {name_lookup.WAITING_PER_KEY} that wait",
        f"{forwards.WAITING_LIMIT} that wait while {MAX_FORWARDS} are forwarded",
        f"name {seconds(name_lookup.SECONDS)}, connection {seconds(forwards.CONNECT_TIMEOUT)}",
        at_once(forward_record.ACCEPTED_BURST, forward_record.ACCEPTED_PER_SECOND),
    ],
    "port or socket that listens for a client": [
        f"{listening.LISTENING_LIMIT} that listen and {listening.ACCEPTED_LIMIT} accepted",
        f"{seconds(listening.ANSWER_TIMEOUT)} for the client",
        at_once(forward_record.LISTENERS_BURST, forward_record.LISTENERS_PER_SECOND),
    ],
    "session of another user that is joined": [
        f"{sharing.PARTICIPANTS_LIMIT} users in a session",
        f"{kib(join_runner.PENDING_LIMIT)} of output",
        f"{seconds(RECORD_SECONDS)} to store",
        f"the last {kib(2 * sharing.RECENT)} of a terminal",
    ],
    "tunnel of a node": [
        f"{acceptor.CONNECTIONS_LIMIT} connections of a node",
        f"{acceptor.STREAMS_LIMIT} streams to auth on one of them",
        f"{acceptor.STREAMS_PER_NODE} on all",
        at_once(acceptor.STREAMS_BURST, acceptor.STREAMS_PER_SECOND),
        f"{seconds(relayed_channels.OPEN_SECONDS)} to open",
    ],
    "log lines and events of refusals": [
        at_once(connection_admission.LINES_BURST, connection_admission.LINES_PER_SECOND, "lines "),
        at_once(
            connection_admission.DENIED_BURST, connection_admission.DENIED_PER_SECOND, "events "
        ),
        at_once(audit.DENIED_BURST, audit.DENIED_PER_SECOND),
        "source: "
        + slowly(
            connection_admission.SOURCE_LINES_BURST,
            connection_admission.SOURCE_LINES_PER_SECOND,
            "lines",
        ),
        slowly(
            connection_admission.SOURCE_DENIED_BURST,
            connection_admission.SOURCE_DENIED_PER_SECOND,
            "events",
        ),
        "user: " + slowly(audit.USER_DENIED_BURST, audit.USER_DENIED_PER_SECOND, "events"),
        f"in {seconds(connection_admission.REPORT_SECONDS)}",
    ],
}


def rows() -> dict[str, str]:
    """Return the table's rows, by their first cell, each as one line of text."""
    section = DOCS.read_text().split(f"{TITLE}\n{'-' * len(TITLE)}\n", 1)[1]
    section = re.split(r"\n[^\n]+\n-{5,}\n", section)[0]
    cells = [" ".join(cell.split()) for cell in re.split(r"\n   (?:\* |  )- ", section)[1:]]
    assert len(cells) % 6 == 0
    lines = [cells[at : at + 6] for at in range(6, len(cells), 6)]
    return {line[0]: " | ".join(line[1:]) for line in lines}


def test_every_row_is_compared() -> None:
    """The table has no row that nothing holds true."""
    assert list(rows()) == list(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_what_the_source_says(name: str) -> None:
    """Each number of a row is a constant of the source, and there is no other number in it."""
    row = rows()[name]
    for phrase in ROWS[name]:
        assert phrase in row
        row = row.replace(phrase, "", 1)
    assert not re.findall(r"\d+", row)


def test_what_the_words_say() -> None:
    """Words of the table that stand for numbers."""
    assert MEMBER_FACTOR == 4, "four times as many"
    assert MEMBER_SOURCE_SECONDS == 86400, "within a day"
    share = admission.limits_for(USUAL, 800)
    assert (share.pending, share.relays) == (200, 100), "a quarter, an eighth"
    user = user_limits.user_limits(800)
    assert (user.connections, user.channels) == (100, 100), "an eighth"
