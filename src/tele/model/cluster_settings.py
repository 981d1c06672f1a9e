"""What holds in a whole cluster, beside how sessions are recorded?

The parts of ``spec`` of the resource ``cluster``. Hosts get theirs in the cluster's state.

Invariants:

* A default changes nothing, and is left out: hosts of an older version do not know these keys.
* What is not supported has a ``problem``, which names the key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import timedelta
from enum import Enum
from typing import Final

from attrs import field, fields, frozen

from tele.model.bounds import OMITTED, AtMost, Between
from tele.model.identity import HostRole
from tele.model.lifetimes import HOST_LIFETIME, REJOIN_LIMIT
from tele.model.recording_modes import ALGORITHMS, HOST_LIFETIMES, TEXTS, TIME_LIMITS
from tele.model.scalars import format_duration
from tele.model.sizes import Size

#: Characters of a text that users read before or after they log in.
TEXT_LIMIT: Final = 2000
#: Names in a list of algorithms.
NAMES_LIMIT: Final = 32
#: The shortest password that any policy accepts, and the longest that it may ask for.
SHORTEST_PASSWORD: Final = 8
LONGEST_MINIMUM: Final = 128
_DAY: Final = timedelta(days=1)
#: What a cluster may choose for the certificates of its hosts.
SHORTEST_HOST_LIFETIME: Final = timedelta(hours=1)
LONGEST_HOST_LIFETIME: Final = timedelta(days=30)
LONGEST_REJOIN_LIMIT: Final = timedelta(days=365)
_DOMAIN: Final = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII
)


def text_problem(text: str) -> str:
    """Return why ``text`` cannot be shown on every terminal as it is, or nothing."""
    for character in text:
        if character != "\n" and not character.isprintable():
            return f"it has the control character U+{ord(character):04X}"
    return ""


def keepalive_problem(value: timedelta) -> str:
    """Return what is wrong with an interval of keepalives, or a time to be idle, or nothing."""
    return "" if not value or value >= timedelta(seconds=1) else "at least 1s, or 0s for never"


@frozen
class PasswordPolicy:
    """What a password that a user or an administrator chooses has to be like.

    ``min_length`` is in characters. ``min_classes`` is how many of these it has: small letters,
    capital letters, digits, other characters. Passwords that auth makes are random, and have
    neither limit; passwords that were set before stay valid.
    """

    min_length: int = field(
        default=SHORTEST_PASSWORD, validator=Between(SHORTEST_PASSWORD, LONGEST_MINIMUM)
    )
    min_classes: int = field(default=1, validator=Between(1, 4))

    def refuses(self, password: str) -> str:
        """Return why ``password`` is refused, without a part of it; or nothing."""
        if len(password) < self.min_length:
            return f"a password has at least {self.min_length} characters in this cluster"
        classes = {
            "small" if c.islower() else "capital" if c.isupper() else "digit"
            if c.isdecimal() else "other"
            for c in password
        }  # fmt: skip
        if len(classes) < self.min_classes:
            return (
                f"a password has {self.min_classes} of these in this cluster: small letters,"
                " capital letters, digits, other characters"
            )
        return ""


@frozen
class AllowedAlgorithms:
    """Which algorithms nodes and proxies may offer to SSH clients; none given: all that they do.

    Names are those of OpenSSH. A host offers those of its own configuration that are listed here.
    """

    key_exchanges: tuple[str, ...] = field(default=(), validator=AtMost(NAMES_LIMIT))
    ciphers: tuple[str, ...] = field(default=(), validator=AtMost(NAMES_LIMIT))
    macs: tuple[str, ...] = field(default=(), validator=AtMost(NAMES_LIMIT))


@frozen
class RecordingsRetention:
    """Which recordings auth removes itself, in place of what its configuration says.

    ``max_age`` is the time since auth learnt of the session, ``max_size`` bytes of all recordings;
    0 is no limit.
    """

    max_age: timedelta = timedelta(0)
    max_size: Size = field(default=Size(0))

    @property
    def problem(self) -> str:
        """Why this is not supported, or nothing."""
        if self.max_age and self.max_age < _DAY:
            return "recordings_retention.max_age: at least 1d, or 0s for ever"
        return ""


class OnCopy(str, Enum):
    """What follows when two machines use the identity of one host.

    ``lock``: the host is locked, with an event. ``report``: there is only the event.
    """

    LOCK = "lock"
    REPORT = "report"


@frozen
class HostCertificates:
    """How long nodes and proxies are members without auth.

    ``lifetime`` is how long a certificate is valid. For ``rejoin_limit`` after the end of its last
    one a host reconnects without a token. ``on_copied_identity`` is what follows when two machines
    renew the certificates of one host.
    """

    lifetime: timedelta = HOST_LIFETIME
    rejoin_limit: timedelta = REJOIN_LIMIT
    on_copied_identity: OnCopy = OnCopy.LOCK

    @property
    def problem(self) -> str:
        """Why this is not supported, or nothing."""
        for name, value, least, most in (
            ("lifetime", self.lifetime, SHORTEST_HOST_LIFETIME, LONGEST_HOST_LIFETIME),
            ("rejoin_limit", self.rejoin_limit, timedelta(0), LONGEST_REJOIN_LIMIT),
        ):
            if not least <= value <= most:
                return (
                    f"host_certificates.{name}: it has to be {format_duration(least)} to"
                    f" {format_duration(most)}"
                )
        return ""


@frozen
class WebauthnSettings:
    """The domain of the pages for which security keys are made; empty: there are none.

    A page at the domain, or below it, may ask for a key; another page gets no answer that is good.
    """

    rp_id: str = field(default="", validator=AtMost(253))

    @property
    def problem(self) -> str:
        """Why this is not supported, or nothing."""
        if not self.rp_id or _DOMAIN.fullmatch(self.rp_id):
            return ""
        return "webauthn.rp_id: a domain in small letters, such as proxy.example.com; no address"


@frozen
class HostSettings:
    """What nodes and proxies have to know of the settings, in the cluster's state.

    ``banner`` is shown before a user logs in to a host, ``message_of_the_day`` when a shell begins
    on a terminal of a node. ``client_idle_timeout`` and ``disconnect_expired_cert`` hold where no
    role says another: see :class:`tele.model.resources.RoleOptions`. Certificates of this host that
    last longer than ``host_certificate_lifetime`` are renewed.
    """

    banner: str = field(default="", validator=AtMost(TEXT_LIMIT), metadata=OMITTED)
    message_of_the_day: str = field(default="", validator=AtMost(TEXT_LIMIT), metadata=OMITTED)
    algorithms: AllowedAlgorithms = field(default=AllowedAlgorithms(), metadata=OMITTED)
    client_idle_timeout: timedelta = field(default=timedelta(0), metadata=OMITTED)
    disconnect_expired_cert: bool = field(default=False, metadata=OMITTED)
    host_certificate_lifetime: timedelta = field(default=HOST_LIFETIME, metadata=OMITTED)

    @property
    def problem(self) -> str:
        """Why this is not supported, or nothing."""
        for name in ("banner", "message_of_the_day"):
            if wrong := text_problem(getattr(self, name)):
                return f"{name}: {wrong}"
        if wrong := keepalive_problem(self.client_idle_timeout):
            return f"client_idle_timeout: {wrong}"
        return ""


#: The feature that a host in a role announces if it honours a setting of :class:`HostSettings`.
SETTING_FEATURES: Final[Mapping[str, Mapping[HostRole, str]]] = {
    "banner": {HostRole.NODE: TEXTS, HostRole.PROXY: TEXTS},
    "message_of_the_day": {HostRole.NODE: TEXTS, HostRole.PROXY: TEXTS},
    "algorithms": {HostRole.NODE: ALGORITHMS, HostRole.PROXY: ALGORITHMS},
    "client_idle_timeout": {HostRole.NODE: TIME_LIMITS, HostRole.PROXY: TIME_LIMITS},
    "disconnect_expired_cert": {HostRole.NODE: TIME_LIMITS, HostRole.PROXY: TIME_LIMITS},
    "host_certificate_lifetime": {HostRole.NODE: HOST_LIFETIMES, HostRole.PROXY: HOST_LIFETIMES},
}
#: Where a setting is in the resource, if it has another name there.
PLACES: Final[Mapping[str, str]] = {"host_certificate_lifetime": "host_certificates.lifetime"}


def changed(before: HostSettings, after: HostSettings) -> tuple[str, ...]:
    """Return the names of settings that are set in ``after``, and were not so in ``before``."""
    usual = HostSettings()
    return tuple(
        each.name
        for each in fields(HostSettings)
        if getattr(after, each.name) not in (getattr(before, each.name), getattr(usual, each.name))
    )


def lacks(setting: str, role: HostRole, features: Collection[str]) -> bool:
    """Whether a host with ``features`` cannot honour a setting."""
    needed = SETTING_FEATURES[setting].get(role)
    return needed is not None and needed not in features
