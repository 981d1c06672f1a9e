"""Which types do values of the configuration have, beside those of Python and the model?"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Network, IPv6Network

from attrs import frozen


@frozen
class Chosen:
    """``kind:arguments``: a plugin and its arguments."""

    kind: str
    arguments: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.arguments}" if self.arguments else self.kind


@frozen
class Pins:
    """CA pins, ``sha256:<hex>``; more than one while the CA is being replaced."""

    values: tuple[str, ...]


@frozen
class Network:
    """An address, or a network as ``address/bits``."""

    value: IPv4Network | IPv6Network

    def __str__(self) -> str:
        return str(self.value)


class Keep(str, Enum):
    """Where a host keeps its identity: on disk, or in memory, as a new host at each start."""

    DISK = "disk"
    MEMORY = "memory"


class ProxyProtocol(str, Enum):
    """Whether connections begin with a header that states their source address."""

    OFF = "off"
    REQUIRED = "required"


class Web(str, Enum):
    """Whether a proxy serves pages for browsers."""

    ON = "on"
    OFF = "off"


class Level(str, Enum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class LogForm(str, Enum):
    """``text`` for reading, ``json`` for programs."""

    TEXT = "text"
    JSON = "json"
