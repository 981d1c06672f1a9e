"""What does an administrator expect of the roles? The documents of ``tele access test``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum

from attrs import Factory, field, frozen

from tele.model.access import Reason
from tele.model.bounds import OneOf


class Action(str, Enum):
    """What a grant may give. ``shell``: any program; ``command``: one that is forced."""

    SHELL = "shell"
    COMMAND = "command"
    TERMINAL = "terminal"
    PORT_FORWARDING = "port_forwarding"
    AGENT_FORWARDING = "agent_forwarding"
    X11_FORWARDING = "x11_forwarding"
    BREAK_GLASS = "break_glass"


class Kind(str, Enum):
    """What rules of destinations and paths are about: see :mod:`tele.model.actions`."""

    LOCAL = "local"
    REMOTE = "remote"
    STREAMLOCAL = "streamlocal"
    UPLOAD = "upload"
    DOWNLOAD = "download"


class Expected(str, Enum):
    """Whether the login is to be permitted."""

    ALLOW = "allow"
    DENY = "deny"


@frozen
class AccessTest:
    """One expectation: of a ``user``, or of one who has these ``roles`` and ``traits``.

    The node is one of the cluster, by name or id, or any with ``labels``. ``reason`` is why it is
    to be denied, ``gives`` what the grant has to give, ``withholds`` what it must not. ``may`` and
    ``may_not`` are destinations and paths by :class:`Kind`. ``at`` is when; now, if it is not
    given.
    """

    login: str
    expect: Expected
    user: str = ""
    roles: tuple[str, ...] = ()
    traits: Mapping[str, tuple[str, ...]] = Factory(dict)
    node: str = ""
    labels: Mapping[str, str] | None = None
    reason: Reason | None = None
    gives: tuple[Action, ...] = ()
    withholds: tuple[Action, ...] = ()
    may: Mapping[Kind, tuple[str, ...]] = Factory(dict)
    may_not: Mapping[Kind, tuple[str, ...]] = Factory(dict)
    at: datetime | None = None

    def __attrs_post_init__(self) -> None:
        if bool(self.user) == bool(self.roles):
            raise ValueError("give a user, or roles (and traits)")
        if self.user and self.traits:
            raise ValueError("traits belong to roles: a user has their own")
        if bool(self.node) == (self.labels is not None):
            raise ValueError("give a node, or labels")
        denied = self.expect is Expected.DENY
        if denied and (self.gives or self.withholds or self.may or self.may_not):
            raise ValueError(
                "what is denied gives nothing: leave out gives, withholds, may and may_not"
            )
        if not denied and self.reason is not None:
            raise ValueError("what is allowed has no reason to be denied: leave out reason")

    @property
    def subject(self) -> str:
        """Who it is about, for messages."""
        who = self.user or f"a user with {', '.join(self.roles)}"
        there = self.node or f"a node with {_text(self.labels or {})}"
        return f"{who}, {self.login}@{there}"


def _text(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items()) or "no labels"


@frozen
class AccessTests:
    """A document with expectations."""

    tests: tuple[AccessTest, ...]
    kind: str = field(default="access_tests", validator=OneOf(("access_tests",)))
    version: str = field(default="v1", validator=OneOf(("v1",)))
