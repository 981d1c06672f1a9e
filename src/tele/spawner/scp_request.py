"""Is a command line the server's side of ``scp``, and which paths does it have?

Invariants:

* Standard library only. The words are never a shell's: a character with a meaning there is
  a part of a path here.
* What is not wholly understood is no such command line.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tele.spawner.shells import split_words

COMMAND_LIMIT: Final = 64 * 1024
#: Paths on one command line.
PATHS_LIMIT: Final = 64
_PROGRAMS: Final = ("scp", "/usr/bin/scp", "/bin/scp")
_OPTIONS: Final = frozenset("tfrpdvq")


class ScpRequest(NamedTuple):
    """``options`` are letters, ``t`` (to here) or ``f`` (from here) among them."""

    options: str
    paths: tuple[bytes, ...]


def read_scp(command: bytes) -> ScpRequest | None:
    """Return what the server's side of scp is asked for, or None for another command line."""
    if len(command) > COMMAND_LIMIT or b"\0" in command or b"\n" in command:
        return None
    try:
        words = split_words(command.decode("utf-8", "surrogateescape"))
    except ValueError:
        return None
    if words[:1] == [] or words[0] not in _PROGRAMS:
        return None
    options: set[str] = set()
    at = 1
    while at < len(words) and words[at].startswith("-") and len(words[at]) > 1:
        at += 1
        if words[at - 1] == "--":
            break
        options |= set(words[at - 1][1:])
    paths = words[at:]
    one_way = len(options & {"t", "f"}) == 1
    if not one_way or not options <= _OPTIONS or not 0 < len(paths) <= PATHS_LIMIT:
        return None
    if "t" in options and len(paths) != 1:
        return None
    named = tuple(path.encode("utf-8", "surrogateescape") for path in paths)
    return ScpRequest("".join(sorted(options)), named)
