"""A Twisted program that runs a command on a node, with the files that ``tele login`` wrote.

python run_command.py HOST:PORT NODE LOGIN FOLDER USER COMMAND

FOLDER is ``~/.tele/CLUSTER``, with ``USER``, ``USER-cert.pub`` and ``known_hosts``; HOST:PORT is
the node's own address, as ``tele ls`` shows it.
"""

import sys
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.task import react

from tele.embed import read_address
from tele.embed.ssh import (
    ClientIdentity,
    HostVerifier,
    PrivateKey,
    connect,
    execute,
    parse_certificate,
    parse_line,
)


def read_authorities(path: Path) -> set[bytes]:
    """Return the keys that sign hosts: those of ``@cert-authority PATTERN TYPE KEY`` lines."""
    lines = (line.split(None, 2) for line in path.read_text().splitlines())
    return {parse_line(words[2]) for words in lines if words[0] == "@cert-authority"}


async def main(
    reactor, address: str, node: str, login: str, folder: str, user: str, command: str
) -> None:
    """Connect, run the command, print what it says and end as it ended."""
    files = Path(folder)
    where = read_address(address)
    connection = await connect(
        reactor,
        HostnameEndpoint(reactor, where.host, where.port),
        verify_host=HostVerifier(read_authorities(files / "known_hosts"), (node,)),
        identity=ClientIdentity(
            PrivateKey.from_openssh((files / user).read_bytes()),
            parse_certificate(parse_line((files / f"{user}-cert.pub").read_text())),
            login,
        ),
    )
    result = await execute(connection, command.encode())
    connection.transport.loseConnection()
    sys.stdout.buffer.write(result.stdout)
    sys.stderr.buffer.write(result.stderr)
    sys.exit(255 if result.exit.status is None else result.exit.status)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
