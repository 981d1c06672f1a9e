"""The folder of ``tele up``: what is in it, and does its cluster run?

::

    tele.yaml   the configuration, written once; may be edited
    tele.pid    the process that runs it, which holds a lock on this file
    tele.log    its log
    ...         the state of auth, proxy and node

Invariants:

* The lock alone says whether a cluster runs; the number in the file says which process holds it.
  After a crash there is nothing to clean up.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import time
from pathlib import Path

from tele.errors import Conflict, InvalidInput, NotFound, TeleError
from tele.private_files import own_folder

#: How long a cluster may take to shut down.
PATIENCE = 30.0
#: Each folder in which a cluster was started has one of these.
OURS = ("tele.yaml", "tele.pid", "tele.log")
#: A log of more bytes is rotated at the next start.
LOG_LIMIT = 10 * 1024 * 1024


def default_folder() -> Path:
    """Return ``/var/lib/tele`` for root, ``~/.local/share/tele`` otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/tele")
    data = os.environ.get("XDG_DATA_HOME")
    return Path(data if data and os.path.isabs(data) else Path.home() / ".local/share") / "tele"


class Folder:
    """The folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.config = self.path / "tele.yaml"
        self.pid_file = self.path / "tele.pid"
        self.log = self.path / "tele.log"

    def prepare(self) -> None:
        """Make it, for its owner only; raises :class:`TeleError`."""
        try:
            own_folder(self.path, OURS, strict=True)
            probe = self.path / ".writable"
            probe.touch(0o600)
            probe.unlink()
        except InvalidInput as error:
            raise InvalidInput(f"{error}\nchoose another folder with --dir") from None
        except OSError as error:
            raise TeleError(
                f"cannot write to the folder {self.path}: {error.strerror}\n"
                "choose another one with --dir"
            ) from None

    def rotate_log(self) -> None:
        """Rename a long log, replacing the one before it."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.1"))

    def lock(self) -> int:
        """Take the lock and return its descriptor; raises :class:`Conflict` if it is taken.

        Processes that are forked share it; programs that they start do not.
        """
        descriptor = os.open(self.pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            number = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise Conflict(
                f"a cluster is running in {self.path} already (process {number or 'starting'})\n"
                f"to stop it, type: tele down --dir {shlex.quote(str(self.path))}"
            ) from None
        os.ftruncate(descriptor, 0)
        return descriptor

    def write_pid(self, descriptor: int) -> None:
        """Write the number of this process."""
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def unlock(self, descriptor: int) -> None:
        """Release the lock, and remove the number."""
        os.ftruncate(descriptor, 0)
        os.close(descriptor)

    def runs(self) -> int | None:
        """Return the process that holds the lock, 0 if its number is not known yet, or None."""
        try:
            descriptor = os.open(self.pid_file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TeleError(f"cannot read {self.pid_file}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(descriptor, 32).strip()
            return int(text) if text.isdigit() else 0
        finally:
            os.close(descriptor)
        return None

    def end(self, patience: float = PATIENCE) -> bool:
        """Stop the cluster that runs here and wait for it; False if none does.

        Raises :class:`NotFound` when this is no folder of a cluster.
        """
        if not self.pid_file.exists() and not self.config.exists():
            raise NotFound(f"there is no cluster in {self.path}")
        deadline = time.monotonic() + patience
        number = self.runs()
        while number == 0 and time.monotonic() < deadline:  # it is starting
            time.sleep(0.05)
            number = self.runs()
        if number is None:
            return False
        self._signal(number, signal.SIGTERM)
        while self.runs() is not None:
            if time.monotonic() > deadline:
                self._signal(number, signal.SIGKILL)
                deadline = time.monotonic() + patience
            time.sleep(0.02)
        return True

    def _signal(self, number: int, how: signal.Signals) -> None:
        """Send a signal, to the process that holds the lock and to no other."""
        try:
            process = os.pidfd_open(number)
        except ProcessLookupError:
            return
        except OSError as error:
            raise TeleError(f"cannot signal process {number}: {error.strerror}") from None
        try:
            if self.runs() == number:  # then the descriptor is of that process
                signal.pidfd_send_signal(process, how)
        except ProcessLookupError:
            return
        except PermissionError:
            raise TeleError(
                f"process {number} belongs to another user: only that user and root can stop it"
            ) from None
        finally:
            os.close(process)
