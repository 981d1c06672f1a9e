"""How is a certificate added to a running ssh-agent, and removed? With ssh-add.

Invariant: an error of the agent does not fail a login; it is printed as a note.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from tele.cli.home import Files

_SECONDS = 10.0


def _program() -> str | None:
    return shutil.which("ssh-add") if os.environ.get("SSH_AUTH_SOCK") else None


def _run(words: list[str]) -> str | None:
    """Run ssh-add; return its error, or None."""
    try:
        done = subprocess.run(  # noqa: S603  (no shell; paths of ours)
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env={k: v for k, v in os.environ.items() if k not in ("SSH_ASKPASS", "DISPLAY")},
        )
    except subprocess.TimeoutExpired:
        return "ssh-agent does not answer"
    except OSError as error:
        return f"cannot run ssh-add: {error.strerror}"
    if done.returncode == 0:
        return None
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"ssh-add ended with {done.returncode}"


def add_to_agent(files: Files, seconds: float) -> str | None:
    """Add key and certificate to the agent for ``seconds``; return the error, or None."""
    program = _program()
    if program is None:
        return None
    return _run([program, "-q", "-t", str(max(1, int(seconds))), str(files.key)])


def remove_from_agent(files: Files) -> None:
    """Remove the key and its certificate from the agent, if there is one."""
    program = _program()
    if program is not None and files.public.exists():
        _run([program, "-q", "-d", str(files.key)])
