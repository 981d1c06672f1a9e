"""A display of the client's own, with real programs of X: for tests."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Whether the programs are there.
HAS_DISPLAYS = all(map(shutil.which, ("xauth", "Xvfb", "xdpyinfo")))


@contextmanager
def own_authority() -> Iterator[None]:
    """Leave the account's file of cookies as it was: sessions write to it."""
    file = Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".Xauthority"
    before = file.read_bytes() if file.exists() else None
    try:
        yield
    finally:
        if before is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(before)


@contextmanager
def x_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """An X server without a screen; gives its display and the file with its cookie."""
    authority = folder / "authority"
    number, number_out = os.pipe()
    cookie = os.urandom(16).hex()
    subprocess.run(
        ["xauth", "-q", "-f", str(authority), "add", ":99", ".", cookie],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(number_out), "-auth", str(authority), "-nolisten", "tcp"],
        pass_fds=(number_out,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(number_out)
    try:
        with open(number, "rb") as file:
            display = f":{int(file.readline())}"
        subprocess.run(
            ["xauth", "-q", "-f", str(authority), "add", display, ".", cookie], check=True
        )
        yield display, authority
    finally:
        server.terminate()
        server.wait()
