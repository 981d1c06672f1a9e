"""Notes which files of tele a process runs functions of: put this folder into ``PYTHONPATH``.

Python loads a module of this name when it starts. With ``CALL_TRACE`` in the environment the path
of each file of tele, the first time that a function of it is called, is appended to the file of
that name; after SIGUSR2 each one again. The spawner starts isolated from such variables: a node
that is traced starts it by ``CALL_TRACE_PYTHON``, which runs this file with the program to trace.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

_MARK = os.sep + os.path.join("src", "tele") + os.sep
_report = os.environ.get("CALL_TRACE", "")
_seen: set[str] = set()


def _note(frame: FrameType, event: str, _argument: object) -> None:
    if event != "call":
        return
    code = frame.f_code
    path = code.co_filename
    if path in _seen or code.co_name == "<module>":
        return
    if _MARK in path and not _is_import(frame):
        _seen.add(path)
        _write(path)
    elif _MARK not in path:
        _seen.add(path)


def _write(path: str) -> None:
    """Append a line. A process that starts a session closes all descriptors, so none is kept."""
    file = os.open(_report, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.write(file, f"{path}\n".encode())
    os.close(file)


def _is_import(frame: FrameType | None) -> bool:
    """Whether a module is being executed: what its definitions call is no step of a session."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and _MARK in frame.f_code.co_filename:
            return not frame.f_code.co_filename.endswith("program.py")
        frame = frame.f_back
    return False


if _report:
    signal.signal(signal.SIGUSR2, lambda *_: _seen.clear())
    sys.executable = os.environ.get("CALL_TRACE_PYTHON", sys.executable)
    threading.setprofile(_note)
    sys.setprofile(_note)
    if __name__ == "__main__":
        import runpy

        del sys.argv[0]
        runpy.run_path(sys.argv[0], run_name="__main__")
