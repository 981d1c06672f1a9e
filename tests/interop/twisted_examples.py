"""The examples of Twisted's own documentation, from its source distribution, imports changed.

``tests/run`` gets the distribution of the Twisted that is installed; nothing of it is here.
Run as a program: ``python twisted_examples.py server|client ARGUMENTS``.
"""

from __future__ import annotations

import re
import sys
import tarfile
from pathlib import Path
from typing import Any

from twisted._version import __version__ as version

DISTRIBUTION = Path(sys.prefix) / "share" / "twisted" / f"twisted-{version.short()}.tar.gz"
#: Our modules in the place of Conch's.
OURS = ("transport", "userauth", "connection", "channel", "session", "factory")


def read_example(name: str) -> str:
    """Return the source of an example."""
    with tarfile.open(DISTRIBUTION) as archive:
        root = archive.getnames()[0].partition("/")[0]
        found = archive.extractfile(f"{root}/docs/conch/examples/{name}")
        assert found is not None
        return found.read().decode()


def change_imports(source: str) -> str:
    """Return ``source`` with our modules imported, and nothing else changed."""

    def change(line: re.Match[str]) -> str:
        names = [name.strip() for name in line[1].split(",")]
        ours = ", ".join(name for name in names if name in OURS)
        theirs = ", ".join(name for name in names if name not in OURS)
        remaining = f"from twisted.conch.ssh import {theirs}\n" if theirs else ""
        return f"{remaining}from tele.embed.ssh import {ours}"

    source = re.sub(r"^from twisted\.conch\.ssh import (.+)$", change, source, flags=re.M)
    modules = "|".join(OURS)
    return re.sub(rf"^from twisted\.conch\.ssh\.({modules})\b", r"from tele.embed.ssh.\1", source,
                  flags=re.M)  # fmt: skip


def serve() -> None:
    """Run the server on a free port, and print it."""
    from twisted.internet import reactor

    running: Any = reactor
    names: dict[str, Any] = {"__name__": "sshsimpleserver"}
    exec(compile(change_imports(read_example("sshsimpleserver.py")), "server", "exec"), names)
    port = running.listenTCP(0, names["ExampleFactory"](), interface="127.0.0.1")
    # The example sends what is printed to its log.
    print(port.getHost().port, file=sys.__stdout__, flush=True)
    running.run()


def connect(port: str, fingerprint: str) -> None:
    """Run the client, which has its settings as constants."""
    source = change_imports(read_example("sshsimpleclient.py"))
    for name, value in (("HOST", "127.0.0.1"), ("PORT", int(port)),
                        ("SERVER_FINGERPRINT", fingerprint.encode())):  # fmt: skip
        source, changed = re.subn(rf"^{name} = .+$", f"{name} = {value!r}", source, flags=re.M)
        assert changed == 1
    exec(compile(source, "client", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    serve() if sys.argv[1] == "server" else connect(*sys.argv[2:])
