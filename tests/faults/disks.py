"""A disk of its own for one part of a cluster, from which the power can be cut.

The disk is an ext4 image behind a loop device. A copy of the image is what a disk holds at that
moment: what the kernel keeps in memory only is not on it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from attrs import define

#: Nothing is written back just because time passes: what is on the disk was put there on purpose.
OPTIONS = "loop,commit=300"


@define
class Disk:
    """The file system at ``folder``, kept in ``image``."""

    folder: Path
    image: Path

    def mount(self) -> None:
        """Make the files appear."""
        subprocess.run(["mount", "-o", OPTIONS, self.image, self.folder], check=True)
        self.folder.chmod(0o700)

    def unmount(self) -> None:
        """Make them disappear, whatever has them open still."""
        subprocess.run(["umount", "--lazy", self.folder], check=True)

    def cut_power(self, pid: int) -> None:
        """End the process as a power cut ends it, and mount what the disk held then.

        It stands still while the image is copied, so that the copy is of one moment.
        """
        copy = self.image.with_suffix(".cut")
        os.kill(pid, signal.SIGSTOP)
        try:
            shutil.copyfile(self.image, copy)
        finally:
            os.kill(pid, signal.SIGKILL)
        self.unmount()
        # The old image goes on to exist for as long as the old file system does.
        copy.rename(self.image)
        self.mount()

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Take all space that there is, also what is freed meanwhile; give it back at the end."""
        filling = self.folder / "filling"
        over = threading.Event()
        with filling.open("ab", buffering=0) as file:
            _fill(file)
            thread = threading.Thread(target=lambda: _keep_full(file, over))
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()
                filling.unlink()


def _keep_full(file: IO[bytes], over: threading.Event) -> None:
    while not over.wait(0.02):
        _fill(file)


def _fill(file: IO[bytes]) -> None:
    for size in (1 << 20, 4096, 1):
        with suppress(OSError):
            while True:
                file.write(bytes(size))


@contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[Disk]:
    """Make a disk at ``folder``, and remove it afterwards."""
    folder.mkdir(mode=0o700)
    made = Disk(folder, folder.with_name(f"{folder.name}.img"))
    with made.image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", made.image], check=True)
    made.mount()
    try:
        yield made
    finally:
        made.unmount()
        made.image.unlink()
