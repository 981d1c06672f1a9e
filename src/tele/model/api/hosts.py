"""Operations on hosts: list them, follow their changes, remove one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import field, frozen

from tele.model.api.operation import Hosts, Nothing, Operation, Permitted, Users
from tele.model.api.paging import PAGE, ById
from tele.model.bounds import OMITTED, AtMost
from tele.model.identity import HostRole
from tele.model.names import HOST_NAME
from tele.model.presence import ADDRESSES_LIMIT, LABELS_LIMIT, PROBLEM_LIMIT, Host

#: Labels to select hosts by.
SELECTORS_LIMIT: Final = 32
#: Characters of an address.
ADDRESS_LIMIT: Final = 300
#: Probes in one report.
PROBES_LIMIT: Final = 500


@frozen
class WatchHosts:
    """All hosts of ``role``, some hundred at a time, then each change."""

    role: HostRole = HostRole.NODE


@frozen
class HostChanges:
    """``items`` are as they are now, ``gone`` are ids of hosts that are forgotten.

    ``first``: it begins anew with all that there are; ``last``: now all of them were told,
    and a host that was known before and is not among them is gone.
    """

    items: tuple[Host, ...]
    gone: tuple[str, ...] = ()
    first: bool = False
    last: bool = False


@frozen
class HostList:
    """``next`` is empty at the end, otherwise what to send as ``after``."""

    items: tuple[Host, ...]
    next: str = ""


@frozen
class ListHosts:
    """Hosts of a role, by labels; users see those that their roles let them log in to.

    ``labels`` are ``key=value``, the value with ``*`` and ``?`` if need be: of one key any of its
    values, of several keys all. A page may have fewer than ``limit`` hosts, or none, and still
    name a ``next`` one.
    """

    role: HostRole = HostRole.NODE
    labels: tuple[str, ...] = field(default=(), validator=AtMost(SELECTORS_LIMIT))
    limit: int = field(default=200, validator=PAGE)
    after: str = ""


@frozen
class AddHost:
    """A machine that runs OpenSSH's sshd, which proxies reach at ``address`` and record.

    ``name`` is what users call it, ``names`` are further names in its host certificate. With
    ``replace`` the machine that has the name already gets these values, and keeps its id.
    """

    name: str = field(validator=HOST_NAME)
    address: str = field(validator=AtMost(ADDRESS_LIMIT))
    labels: Mapping[str, str] = field(factory=dict, validator=AtMost(LABELS_LIMIT))
    names: tuple[str, ...] = field(default=(), validator=AtMost(ADDRESSES_LIMIT))
    replace: bool = False


@frozen
class HostProbe:
    """What a proxy found when it connected to a machine with sshd; ``problem`` is a text.

    ``address`` is where it connected to: an older version does not say.
    """

    host_id: str
    ok: bool
    problem: str = field(default="", validator=AtMost(PROBLEM_LIMIT))
    address: str = field(default="", validator=AtMost(PROBLEM_LIMIT), metadata=OMITTED)


@frozen
class ReportHostProbes:
    """Probes of the calling proxy."""

    items: tuple[HostProbe, ...] = field(validator=AtMost(PROBES_LIMIT))


WATCH_HOSTS = Operation(
    "watch_hosts",
    "GET",
    "/v1/hosts/watch",
    WatchHosts,
    HostChanges,
    (Hosts((HostRole.PROXY, HostRole.AUTH)),),
    "All hosts of a role, and each change",
    streams=True,
    cost=20,
)

LIST_HOSTS = Operation(
    "list_hosts",
    "GET",
    "/v1/hosts",
    ListHosts,
    HostList,
    (Users(), Hosts((HostRole.PROXY, HostRole.AUTH))),
    "Hosts that the caller may see",
    cost=10,
)

DELETE_HOST = Operation(
    "delete_host",
    "DELETE",
    "/v1/hosts/{id}",
    ById,
    Nothing,
    (Permitted("node", "delete"),),
    "Remove the host with this id or name",
)

ADD_HOST = Operation(
    "add_host",
    "POST",
    "/v1/hosts",
    AddHost,
    Host,
    (Permitted("node", "create"),),
    "Register a machine that runs OpenSSH's sshd",
    limit=512 * 1024,
    cost=5,
)

REPORT_HOST_PROBES = Operation(
    "report_host_probes",
    "POST",
    "/v1/hosts/probes",
    ReportHostProbes,
    Nothing,
    (Hosts((HostRole.PROXY,)),),
    "Which machines with sshd the calling proxy can connect to",
    cost=20,
)
