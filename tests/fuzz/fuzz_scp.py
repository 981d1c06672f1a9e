"""Invariant: whatever a client of scp sends, the server ends, and makes and reads nothing outside
the folder that its rules name.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from attempts import Dice, main
from tele.spawner.restricted_files import read_files
from tele.spawner.scp_request import ScpRequest
from tele.spawner.scp_server import ScpServer

SEEDS = (
    b"T1000000000 0 1000000001 0\nC0640 3 a\nnew\0D0750 0 d\nC0600 0 e\n\0E\n",
    b"C0644 5 ../x\nhello\0C0644 5 x\nhello\0",
    b"D0755 0 ..\nC0644 1 y\ny\0E\n",
    b"\x01no\nC0777 2 link\nzz\0",
    b"\0\0\0\0\0\0",
    b"\0\x01refused\n\0",
)
OPTIONS = ("t", "rt", "prt", "dt", "f", "fr", "fpr")
PATHS = (b"", b"/in", b"/in/new", b"/in/link", b"/secret", b"/in/..", b"/*", b"/in/*", b"/none")


def attempt(dice: Dice) -> None:
    """One copy, with damage, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="tele-fuzz-") as made:
        folder = os.path.realpath(made)
        for name in ("in", "secret"):
            os.mkdir(f"{folder}/{name}")
        Path(folder, "secret/file").write_bytes(b"secret")
        os.symlink("../secret", f"{folder}/in/link")
        rules = {"allow": [f"{folder}/in/**"], "deny": []}
        home = os.fsencode(folder)
        files = read_files(json.dumps({"upload": rules, "download": rules}).encode(), home)
        source = memoryview(dice.damaged(b"".join(dice.choices(SEEDS, k=dice.randint(0, 3)))))
        written = bytearray()

        def read(size: int) -> bytes:
            nonlocal source
            data, source = bytes(source[:size]), source[size:]
            return data

        request = ScpRequest(dice.choice(OPTIONS), (home + dice.choice(PATHS),))
        status = ScpServer(request, files, home, read, written.extend).run()
        assert status in (0, 1)
        assert b"secret" not in written.replace(home + b"/secret", b"")
        assert sorted(os.listdir(folder)) == ["in", "secret"]
        assert os.listdir(f"{folder}/secret") == ["file"]
        assert Path(folder, "secret/file").read_bytes() == b"secret"


if __name__ == "__main__":
    main(attempt)
