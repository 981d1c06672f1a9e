"""Which shell runs the command of a session, and with which arguments? Which words has a command?

Invariants:

* Standard library only: the spawner loads it.
* A forced command is run by a shell that reads no file of the user before it, and a shell
  that restricts its account is never left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

#: Where shells are listed that let their account do as it likes (shells(5)).
SHELLS: Final = "/etc/shells"
#: Used in place of a listed shell whose option against start-up files is not known.
_PLAIN_SHELL: Final = "/bin/sh"
#: Options that keep a shell from start-up files with ``-c``, by the letters that its name begins
#: with (``bash-static``, ``zsh5``). bash takes sshd for rshd: it reads ``.bashrc`` then.
_WITHOUT_FILES: Final[dict[str, tuple[bytes, ...]]] = {
    "bash": (b"--norc",),
    "zsh": (b"-f",),
    "csh": (b"-f",),
    "bsd-csh": (b"-f",),
    "tcsh": (b"-f",),
    "fish": (b"--no-config",),
    **dict.fromkeys(("sh", "dash", "ash", "ksh", "mksh", "yash"), ()),
}
_LETTERS: Final = re.compile(r"(?:bsd-)?[a-z]*", re.ASCII)
#: Shells that restrict, though machines list them; so do those above with an ``r`` before them.
_RESTRICTING: Final = frozenset({"git-shell", "rssh", "scponly", "lshell"}) | frozenset(
    f"r{name}" for name in _WITHOUT_FILES
)

#: What a command line is made of: plain text, text in single quotes, in double quotes, after a
#: backslash, and spaces.
_PIECE: Final = re.compile(
    r"""([^ \t\r\n'"\\]+)|'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([ \t\r\n]+)""", re.DOTALL
)
_DOUBLE: Final = 3
_SPACE: Final = 5
_ESCAPED: Final = re.compile(r'\\(["\\])')


def split_words(command: str) -> list[str]:
    """Return what ``shlex.split`` does, for usual commands in a twentieth of the time: the node
    reads each command so, in its reactor, and shlex looks at each character for itself.

    Raises ValueError where a quote is not closed, or nothing follows the last backslash.
    """
    words: list[str] = []
    pieces: list[str] = []  # of a word that has not ended
    at = 0
    for found in _PIECE.finditer(command):
        if found.start() != at:
            break
        at = found.end()
        kind = found.lastindex or 0
        if kind == _SPACE:
            if pieces:
                words.append("".join(pieces))
                pieces.clear()
        elif kind == _DOUBLE and "\\" in found[kind]:
            pieces.append(_ESCAPED.sub(r"\1", found[kind]))
        else:
            pieces.append(found[kind])
    if at < len(command):
        raise ValueError("a quote that is not closed, or a backslash at the end")
    if pieces:
        words.append("".join(pieces))
    return words


def is_unrestricted(shell: str, shells: str = SHELLS) -> bool:
    """Whether ``shell`` lets its account do as it likes.

    It is listed in ``shells``, or well known where there is no such list; others may be menus,
    jails or anything.
    """
    name = os.path.basename(shell)
    try:
        with open(shells, encoding="utf-8", errors="surrogateescape") as file:
            listed = shell in {line.strip() for line in file}
    except FileNotFoundError:
        listed = name in _WITHOUT_FILES
    return listed and name not in _RESTRICTING


def execution(
    shell: str, kind: str, words: Sequence[bytes], shells: str = SHELLS
) -> tuple[str, list[bytes]]:
    """Return path and argv for a session of ``kind`` (``shell``, ``exec``, ``forced``)."""
    name = os.path.basename(shell)
    if kind == "shell":
        return shell, [b"-" + os.fsencode(name)]
    options: tuple[bytes, ...] = ()
    if kind == "forced":
        known = _without_files(shell)
        if known is None and is_unrestricted(shell, shells):
            shell, name = _PLAIN_SHELL, os.path.basename(_PLAIN_SHELL)
        options = known or ()
    return shell, [os.fsencode(name), *options, b"-c", words[0]]


def _without_files(shell: str) -> tuple[bytes, ...] | None:
    """Return what keeps ``shell`` from start-up files; None if it is not known."""
    # A shell goes by the name that it is called by: one that is called sh is one.
    for path in (shell, os.path.realpath(shell)):
        found = _LETTERS.match(os.path.basename(path))
        letters = found[0] if found else ""
        for each in (letters, letters.removeprefix("r")):
            if each in _WITHOUT_FILES:
                return _WITHOUT_FILES[each]
    return None
