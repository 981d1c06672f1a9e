"""A power cut at auth: what it has acknowledged is on the disk, and nowhere else.

Auth works on a file system in an image file. What is not synced is in the kernel's memory and not
in the image; so a copy of the image is what a disk has after a power cut.
"""

from __future__ import annotations

import filecmp
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import evolve

from lone_auth import Ledger, LoneAuth

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not all(map(shutil.which, ("mkfs.ext4", "mount", "losetup"))),
        reason="needs ext4 in a loop device",
    ),
]

SIZE = 64 << 20
#: The kernel writes nothing by itself for a while, and replaces nothing early because it looks
#: like what careless programs do.
OPTIONS = "loop,commit=300,noauto_da_alloc"

#: Auth without one of its syncs, to see that a copy then lacks something. ``sitecustomize`` of the
#: auth that has it.
NO_FILE_SYNC = "import os\nos.fsync = lambda descriptor: None\n"
NO_STORE_SYNC = """
import sqlite3
class Careless(sqlite3.Connection):
    def execute(self, text, *more):
        return super().execute(text.replace("synchronous = FULL", "synchronous = OFF"), *more)
connect = sqlite3.connect
sqlite3.connect = lambda *words, **more: connect(*words, **{"factory": Careless, **more})
"""


@contextmanager
def mounted(image: Path, where: Path) -> Iterator[Path]:
    """Mount an image for as long as the block takes."""
    where.mkdir()
    subprocess.run(["mount", "-t", "ext4", "-o", OPTIONS, image, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)
        where.rmdir()


@contextmanager
def at_work(folder: Path, site: str = "") -> Iterator[tuple[LoneAuth, Path, Ledger]]:
    """Give auth on an image, the image, and what it acknowledges while the block runs."""
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    environment = {}
    if site:
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(site)
        environment["PYTHONPATH"] = str(folder / "site")
    with mounted(image, folder / "disk") as disk:
        auth = LoneAuth(folder, disk / "data", environment=environment)
        auth.start()
        try:
            subprocess.run(["sync", "-f", disk], check=True)  # where it begins
            ledger, ending = Ledger(auth), threading.Event()

            def work() -> None:
                while not ending.is_set():
                    ledger.add()

            worker = threading.Thread(target=work)
            worker.start()
            try:
                yield auth, image, ledger
            finally:
                ending.set()
                worker.join()
        finally:
            auth.stop()


def snapshot(ledger: Ledger) -> Ledger:
    """What is acknowledged by now."""
    finished = list(ledger.finished)
    return evolve(
        ledger,
        finished=finished,
        chunks={key: list(chunks) for key, chunks in list(ledger.chunks.items())},
        users=list(ledger.users),
        roles=list(ledger.roles),
        events=list(ledger.events),
    )


def power_cut(auth: LoneAuth, image: Path, target: Path) -> None:
    """Copy the image as it is at one moment."""
    assert auth.process is not None
    auth.process.send_signal(signal.SIGSTOP)
    try:
        shutil.copyfile(image, target)
        while not filecmp.cmp(image, target, shallow=False):  # a sync was on its way still
            shutil.copyfile(image, target)
    finally:
        auth.process.send_signal(signal.SIGCONT)


def lost(folder: Path, copy: Path, ledger: Ledger) -> list[str]:
    """Start auth from a copy of the disk; return what it does not have of what it acknowledged."""
    with mounted(copy, folder / "disk after the cut") as disk:
        auth = LoneAuth(folder / "after", disk / "data")
        auth.folder.mkdir(exist_ok=True)
        try:
            auth.start()
        except AssertionError as error:
            auth.stop()
            return [f"auth does not start: {error}"]
        try:
            problems = evolve(ledger, auth=auth).missing()
        finally:
            auth.stop()
        done = auth.run("audit", "verify", "--store", str(auth.data_dir / "auth.sqlite"))
        return problems if done.returncode == 0 else [*problems, done.stderr]


def test_what_is_acknowledged_survives_a_power_cut(tmp_path: Path) -> None:
    """Users, roles, events, chunks and manifests that auth acknowledged are in each copy that is
    taken at a random moment, and the audit's chain is whole.
    """
    seed = time.time_ns()
    moments = random.Random(seed)
    copies: list[tuple[Path, Ledger]] = []
    with at_work(tmp_path) as (auth, image, ledger):
        for number in range(3):
            before = len(ledger.finished)
            while len(ledger.finished) == before:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.5))
            acknowledged, copy = snapshot(ledger), tmp_path / f"copy{number}"
            power_cut(auth, image, copy)
            copies.append((copy, acknowledged))
    for copy, acknowledged in copies:
        assert acknowledged.finished
        assert acknowledged.events
        assert lost(tmp_path, copy, acknowledged) == [], f"seed {seed}"
        copy.unlink()


@pytest.mark.parametrize(
    ("site", "kind"), [(NO_FILE_SYNC, "recording"), (NO_STORE_SYNC, "user")], ids=["files", "store"]
)
def test_without_a_sync_the_copy_shows_it(tmp_path: Path, site: str, kind: str) -> None:
    """The check can fail: of an auth that does not sync its files, or its store, a copy lacks what
    was acknowledged.
    """
    with at_work(tmp_path, site) as (auth, image, ledger):
        while not ledger.finished:
            time.sleep(0.01)
        acknowledged = snapshot(ledger)
        power_cut(auth, image, tmp_path / "copy")
    problems = lost(tmp_path, tmp_path / "copy", acknowledged)
    assert any(each.startswith(kind) for each in problems), problems
