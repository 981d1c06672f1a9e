"""What may a role allow and deny beside a login: which forwards, and which files?

Invariant: None is not said; an empty list says nothing at all.
"""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from tele.model.bounds import OMITTED

#: Patterns of every destination, and of every path.
EVERYWHERE: Final = ("*:*",)
EVERY_PATH: Final = ("/**",)


@frozen
class ForwardRules:
    """What may be forwarded: one side of a role.

    ``local`` are destinations ``HOST:PORT`` that the node connects to (``ssh -L``, ``-D``, ``-W``),
    ``remote`` those where it listens (``ssh -R``), and ``streamlocal`` paths of UNIX sockets, for
    both; see :mod:`tele.rbac.destinations` and :mod:`tele.spawner.path_patterns`. ``agent`` and
    ``x11`` have no destination.
    """

    local: tuple[str, ...] | None = field(default=None, metadata=OMITTED)
    remote: tuple[str, ...] | None = field(default=None, metadata=OMITTED)
    streamlocal: tuple[str, ...] | None = field(default=None, metadata=OMITTED)
    agent: bool | None = field(default=None, metadata=OMITTED)
    x11: bool | None = field(default=None, metadata=OMITTED)


@frozen
class TransferRules:
    """Which files may be transferred: one side of a role.

    ``upload`` are paths that may be written, ``download`` paths that may be read; see
    :mod:`tele.spawner.path_patterns`. A role that says either transfers files and does nothing
    else, for any program could get around it.
    """

    upload: tuple[str, ...] | None = field(default=None, metadata=OMITTED)
    download: tuple[str, ...] | None = field(default=None, metadata=OMITTED)


#: A side of a role that says nothing about forwards, or files.
NO_RULES: Final = ForwardRules()
ANY_FILES: Final = TransferRules()
