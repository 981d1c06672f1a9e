"""How are the parts of many recordings stored with few syncs? In groups, as databases commit.

One group is written at a time; what comes meanwhile is the next one. A small group is synced file
by file, a larger one with its file system (:mod:`tele.capacity.durable`).

Invariants:

* A part is written once, whole or not at all, and is on disk with all its parent folders before it
  is acknowledged; also when it is acknowledged because it exists.
* What is wrong with one part is the failure of that part alone; a sync that fails is the failure of
  its group.
* The reactor's thread never waits for the disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tele.capacity.durable import sync_file_system
from tele.durable_files import make_folder, name_new, sync_folder, write_beside, write_file
from tele.errors import Conflict

#: Parts of one group, and their bytes.
GROUP: Final = 512
GROUP_BYTES: Final = 32 << 20
#: A group of fewer parts is synced file by file: others may write much to the same file system.
SMALL: Final = 5
_DIFFERS: Final = "this part of the recording is there already, and differs"

Problem = Exception | None


@frozen(eq=False)
class _Part:
    path: Path
    data: bytes
    answer: Deferred[None]


@define
class _Written:
    """A part that has no name yet (``beside``), or that exists."""

    part: _Part
    beside: Path | None
    problem: Problem = None


class GroupWriter:
    """Writes files below ``root``.

    :param run: calls a function in a thread.
    :param check_space: raises if there is no space for so many bytes.
    :param sync: syncs the file system of an open folder.
    """

    def __init__(
        self,
        root: Path,
        run: Callable[[Callable[[], Any]], Deferred[Any]],
        check_space: Callable[[int], None],
        sync: Callable[[int], None] = sync_file_system,
    ) -> None:
        self._root = root
        self._run = run
        self._check_space = check_space
        self._sync = sync
        self._waiting: list[_Part] = []
        self._running = False

    def write(self, path: Path, data: bytes) -> Deferred[None]:
        """Write a file two folders below the root. Fails with OSError or a TeleError."""
        part = _Part(path, data, Deferred())
        self._waiting.append(part)
        self._next()
        return part.answer

    def _next(self) -> None:
        if self._running or not self._waiting:
            return
        group: list[_Part] = []
        size = 0
        while self._waiting and len(group) < GROUP and size < GROUP_BYTES:
            group.append(self._waiting.pop(0))
            size += len(group[-1].data)
        self._running = True
        self._run(partial(self._write, group)).addBoth(self._done, group)

    def _done(self, result: Sequence[Problem] | Failure, group: Sequence[_Part]) -> None:
        self._running = False
        self._next()
        problems = [result.value] * len(group) if isinstance(result, Failure) else result
        for part, problem in zip(group, problems, strict=True):
            if problem is None:
                part.answer.callback(None)
            else:
                part.answer.errback(problem)

    # -- in a thread ------------------------------------------------------------------
    def _write(self, group: Sequence[_Part]) -> Sequence[Problem]:
        if len(group) < SMALL:
            return [_problem(self._write_alone, part) for part in group]
        written = [self._begin(part) for part in group]
        try:
            self._sync_all()
            for each in written:
                if each.problem is None:
                    each.problem = _problem(_finish, each)
            self._sync_all()
        finally:
            for each in written:
                if each.beside is not None:
                    with contextlib.suppress(OSError):
                        each.beside.unlink(missing_ok=True)
        return [each.problem for each in written]

    def _sync_all(self) -> None:
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._sync(descriptor)
        finally:
            os.close(descriptor)

    def _begin(self, part: _Part) -> _Written:
        """Write a part under another name."""
        written = _Written(part, None)

        def write() -> None:
            if part.path.exists():
                _compare(part)
                return
            self._check_space(len(part.data))
            make_folder(part.path.parent)
            written.beside = write_beside(part.path, part.data, sync=False)

        written.problem = _problem(write)
        return written

    def _write_alone(self, part: _Part) -> None:
        path = part.path
        known = path.exists()
        if not known:
            self._check_space(len(part.data))
        make_folder(path.parent)
        if known or not write_file(path, part.data, replace=False):
            _compare(part)
            sync_folder(path.parent)
        # Another call may have made these folders, and not have synced them yet.
        sync_folder(path.parent.parent)
        sync_folder(self._root)


def _finish(written: _Written) -> None:
    if written.beside is None:
        return
    try:
        name_new(written.beside, written.part.path)
    except FileExistsError:
        _compare(written.part)


def _compare(part: _Part) -> None:
    if part.path.read_bytes() != part.data:
        raise Conflict(_DIFFERS)


def _problem(function: Callable[..., None], *arguments: object) -> Problem:
    """Call a function; return what it raises."""
    try:
        function(*arguments)
    except Exception as error:
        return error
    return None
