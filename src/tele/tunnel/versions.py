"""Which of two members of a cluster has to be upgraded, if they do not understand each other?

Each learns the version of the other from its SSH version line.
"""

from __future__ import annotations

import re
from typing import Final

from tele._version import VERSION

_SOFTWARE: Final = re.compile(rb"SSH-2\.0-OpenSSH_tele_([0-9][0-9A-Za-z.]{0,31})\s*")


def advice(peer: str, line: bytes, ours: str, version: str = VERSION) -> str:
    """Return which side to upgrade, to follow an error; nothing if both have one version.

    ``line`` is the version line of ``peer``, which is called so in the text, as ``ours`` is.
    """
    version = version.partition("+")[0]
    found = _SOFTWARE.match(line)
    theirs = "" if found is None else found[1].decode("ascii")
    if theirs in ("", version):
        return ""
    older = f"the {peer}" if _numbers(theirs) < _numbers(version) else f"this {ours}"
    return f": the {peer} has version {theirs}, this {ours} has {version}; upgrade {older}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"[0-9]+", version)))
