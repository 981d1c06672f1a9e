"""Lines of the log about connections, in a process that is node and proxy."""

from __future__ import annotations

import socket
from pathlib import Path

from twisted.logger import capturedLogs

from small_cluster import small_cluster

CLOSED = "connection closed"


def test_a_line_says_which_part_wrote_it(tmp_path: Path) -> None:
    """A peer that is disconnected by the node and by the proxy causes two lines that differ."""
    with small_cluster(tmp_path) as cluster:
        proxy, node = cluster.proxy(), cluster.node()
        for port, part in ((node.port, "node"), (proxy.port, "proxy")):
            with socket.create_connection(("127.0.0.1", port)) as client, capturedLogs() as events:
                client.sendall(b"SSH-2.0-x\r\n" + bytes(64))
                cluster.reactor.until(lambda seen=events: CLOSED in [e["log_format"] for e in seen])
                peer = "{}:{}".format(*client.getsockname())
            (line,) = (each for each in events if each["log_format"] == CLOSED)
            assert (line["peer"], line["part"]) == (peer, part)
