"""How does OpenSSH's client reach the cluster's proxy if a plain connection does not?

Through an HTTP or SOCKS proxy, or by the other address family.

``tele proxy ssh`` uses this as the ProxyCommand of its connection to the cluster's proxy. It
connects, passes the socket to ssh and exits (ProxyUseFdpass of ssh_config(5)).
"""

from __future__ import annotations

import os
import socket
import stat

import click

from tele.cli.openssh import proxy_address
from tele.errors import InvalidInput, Unreachable, quoted
from tele.sockets.tcp import USER_SECONDS, notice_dead_peer

CONNECT_SECONDS = 10.0


@click.command()
@click.argument("target", metavar="HOST:PORT")
def connect(target: str) -> None:
    """Connect, as HTTPS_PROXY says, and hand the socket to ssh on standard output."""
    from tele.outbound import blocking_dial

    if not stat.S_ISSOCK(os.fstat(1).st_mode):
        raise InvalidInput(
            "standard output is not a socket: use this as ssh's ProxyCommand with ProxyUseFdpass"
        )
    host, port = proxy_address(target)
    try:
        made = blocking_dial.connect(host, port, CONNECT_SECONDS)
    except OSError as error:
        raise Unreachable(f"{quoted(target)} did not answer: {error.strerror}") from None
    made.setblocking(True)
    notice_dead_peer(made, USER_SECONDS)
    with made, socket.socket(fileno=os.dup(1)) as ssh:
        socket.send_fds(ssh, [b"\0"], [made.fileno()])
