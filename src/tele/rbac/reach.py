"""Which forwards and files does a grant give, for administrators, and is this one among them?

Invariants:

* The rules are those of the grant; here nothing is looked up: of a name no address is known, and
  of a path no link.
* Every kind has rules; what is not limited has the pattern for everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import frozen

from tele.errors import InvalidInput, quoted
from tele.model.access import Grant
from tele.model.actions import ANY_FILES, EVERY_PATH
from tele.model.addresses import plain_host
from tele.rbac.destinations import allows_listening, allows_unresolved
from tele.spawner.path_patterns import PathRules

#: What a home directory is called where it is not known.
HOME: Final = b"/~"
_LISTENERS: Final = {"localhost": "127.0.0.1", "*": "0.0.0.0"}  # noqa: S104 - a pattern's meaning


@frozen
class Reach:
    """Patterns of one kind that are allowed, unless they are denied."""

    allow: tuple[str, ...]
    deny: tuple[str, ...] = ()


def reach_of(grant: Grant) -> Mapping[str, Reach]:
    """Return the rules of each kind of ``forward`` and ``file_transfer``."""
    forwards, files = grant.denied_forwards, grant.denied_files
    limited = all(grant.restricts(each) for each in grant.given)
    given = [each.files for each in grant.given]
    every = any(each is None for each in given)

    def paths(name: str) -> tuple[str, ...]:
        if not limited or every:
            return EVERY_PATH
        lists = (getattr(each or ANY_FILES, name) or () for each in given)
        return tuple(sorted({path for each in lists for path in each}))

    no_upload, no_download = (files.upload, files.download) if limited else ((), ())
    return {
        "local": Reach(grant.local_forwards, forwards.local or ()),
        "remote": Reach(grant.remote_forwards, forwards.remote or ()),
        "streamlocal": Reach(grant.streamlocal_forwards, forwards.streamlocal or ()),
        "upload": Reach(paths("upload"), no_upload or ()),
        "download": Reach(paths("download"), no_download or ()),
    }


def includes(kind: str, reach: Reach, what: str) -> bool:
    """Whether ``what``, a destination or a path, is among what ``reach`` allows. Raises
    :class:`InvalidInput` for what is neither.
    """
    if kind in ("local", "remote"):
        host, _, port = what.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise InvalidInput(f"{quoted(what)} is not HOST:PORT")
        host = plain_host(host.removeprefix("[").removesuffix("]"))
        if kind == "local":
            return allows_unresolved(reach.allow, reach.deny, host, int(port))
        address = _LISTENERS.get(host, host)
        try:
            return allows_listening(reach.allow, reach.deny, (address,), int(port))
        except ValueError:
            raise InvalidInput(f"{quoted(host)} is no address to listen on") from None
    if not what.startswith(("/", "~/")):
        raise InvalidInput(f"{quoted(what)} is no path from / or ~/")
    path = what.encode("utf-8", "surrogateescape")
    real = HOME + path[1:] if path.startswith(b"~/") else path
    return PathRules.read(reach.allow, reach.deny, HOME).allows(real)
