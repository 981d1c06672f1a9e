"""Where are a user's keys and certificates stored? In ``$TELE_HOME``.

::

    <home>/current                 the name of the current cluster
    <home>/<cluster>/profile.json  proxy, user and the CA pins of the cluster
    <home>/<cluster>/ca.json       the authorities to trust
    <home>/<cluster>/<user>        SSH private key; .pub and -cert.pub beside it
    <home>/<cluster>/<user>.tls.key, <user>.tls.pem
    <home>/<cluster>/<user>.json   a summary of the certificate, written last
    <home>/<cluster>/known_hosts, ssh_config

Invariants:

* Few imports, of the standard library only: ``tele proxy ssh`` uses this.
* Folders are 0700 and files 0600; a file is replaced whole or not at all.
* Names of clusters and users are untrusted: only safe ones become part of a path.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from tele.durable_files import write_file
from tele.errors import InvalidInput, NotLoggedIn, TeleError, quoted
from tele.private_files import own_folder

#: The same as tele.model.names.NAME_PATTERN, which costs the import of attrs.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,126}[A-Za-z0-9])?", re.ASCII)
#: The port of a proxy whose address has none.
DEFAULT_PORT = 3080
#: A certificate that ends within so many seconds counts as expired: the next call would fail.
MARGIN = 30.0
#: User names that would be the name of another file here.
_TAKEN = re.compile(r"known_hosts|ssh_config|ca|profile|.*\.(?:pub|json|key|pem)")


class Profile(NamedTuple):
    """One cluster, as of the last login to it. ``proxy`` is ``host:port``."""

    cluster: str
    proxy: str
    user: str
    ca_pins: tuple[str, ...]


class CertificateSummary(NamedTuple):
    """Fields of the certificate, for commands that are not to spend time on parsing it.

    ``expires`` is in seconds since 1970, and so is ``issued``, the date by auth's clock.
    ``session_mfa``: some nodes want a second factor for each session.
    """

    user: str
    logins: tuple[str, ...]
    roles: tuple[str, ...]
    expires: float
    issued: float = 0.0
    session_mfa: bool = False


class Files(NamedTuple):
    """The files of one user in one cluster."""

    folder: Path
    user: str

    @property
    def key(self) -> Path:
        """The SSH private key."""
        return self.folder / self.user

    @property
    def public(self) -> Path:
        """The SSH public key."""
        return self.folder / f"{self.user}.pub"

    @property
    def certificate(self) -> Path:
        """The SSH certificate, named as OpenSSH looks for it."""
        return self.folder / f"{self.user}-cert.pub"

    @property
    def tls_key(self) -> Path:
        """The private key for the API."""
        return self.folder / f"{self.user}.tls.key"

    @property
    def tls_certificate(self) -> Path:
        """The certificate for the API."""
        return self.folder / f"{self.user}.tls.pem"

    @property
    def summary(self) -> Path:
        """The summary of the certificate."""
        return self.folder / f"{self.user}.json"

    @property
    def authorities(self) -> Path:
        """The authorities to trust."""
        return self.folder / "ca.json"

    @property
    def known_hosts(self) -> Path:
        """The authorities for OpenSSH."""
        return self.folder / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        """The configuration for OpenSSH."""
        return self.folder / "ssh_config"


def is_name(text: str) -> bool:
    """Whether ``text`` is a valid name: no path, no option, and one word in any shell."""
    return _NAME.fullmatch(text) is not None


def safe_name(kind: str, name: str) -> str:
    """Return ``name`` if it may be part of a path; raises :class:`InvalidInput`."""
    taken = name == "current" if kind == "cluster" else _TAKEN.fullmatch(name)
    if not is_name(name) or taken:
        raise InvalidInput(f"{quoted(name)} cannot be the name of a {kind}")
    return name


class Home:
    """The folder ``$TELE_HOME``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def find(cls) -> Home:
        """Return the one that ``$TELE_HOME`` names, or ``~/.tele``."""
        named = os.environ.get("TELE_HOME")
        return cls(Path(named).absolute() if named else Path.home() / ".tele")

    def current(self) -> str | None:
        """Return the name of the current cluster, if there was a login."""
        try:
            name = (self.path / "current").read_text("utf-8").strip()
        except FileNotFoundError:
            return None
        return safe_name("cluster", name)

    def clusters(self) -> list[str]:
        """Return the names of all clusters with a profile, in order."""
        return sorted(each.parent.name for each in self.path.glob("*/profile.json"))

    def profile(self, cluster: str) -> Profile | None:
        """Return the profile of ``cluster``, or None."""
        fields = _read(self.path / safe_name("cluster", cluster) / "profile.json")
        if fields is None:
            return None
        try:
            name, user = str(fields["cluster"]), str(fields["user"])
            found = Profile(name, str(fields["proxy"]), user, tuple(fields["ca_pins"]))
        except (KeyError, TypeError):
            raise _damaged(self.path / cluster / "profile.json") from None
        safe_name("cluster", found.cluster)
        safe_name("user", found.user)
        return found

    def by_proxy(self, proxy: str) -> Profile | None:
        """Return the profile of the cluster behind ``proxy``, its port given or not, or None."""
        wanted = {proxy, f"{proxy}:{DEFAULT_PORT}", f"[{proxy}]:{DEFAULT_PORT}"}
        profiles = (self.profile(name) for name in self.clusters())
        return next((p for p in profiles if p is not None and p.proxy in wanted), None)

    def chosen(
        self, cluster: str | None = None, proxy: str | None = None, user: str | None = None
    ) -> Profile | None:
        """Return the profile that the options choose; the last login is the default."""
        if cluster is not None:
            profile = self.profile(cluster)
        elif proxy is not None:
            profile = self.by_proxy(proxy)
        else:
            last = self.current()
            profile = None if last is None else self.profile(last)
        if profile is not None and user is not None:
            profile = profile._replace(user=safe_name("user", user))
        return profile

    def files(self, profile: Profile) -> Files:
        """Return the files of the profile's user."""
        folder = self.path / safe_name("cluster", profile.cluster)
        return Files(folder, safe_name("user", profile.user))

    def summary(self, profile: Profile) -> CertificateSummary | None:
        """Return the summary of the user's certificate, or None if there is none."""
        fields = _read(self.files(profile).summary)
        if fields is None:
            return None
        try:
            logins, roles = tuple(fields["logins"]), tuple(fields["roles"])
            expires, issued = float(fields["expires"]), float(fields.get("issued", 0.0))
            asks = fields.get("session_mfa") is True
            return CertificateSummary(str(fields["user"]), logins, roles, expires, issued, asks)
        except (KeyError, TypeError, ValueError):
            raise _damaged(self.files(profile).summary) from None

    def save_profile(self, profile: Profile) -> None:
        """Write the profile and make its cluster the current one."""
        folder = self.files(profile).folder
        self.write(folder / "profile.json", json.dumps(profile._asdict(), indent=1))
        self.write(self.path / "current", profile.cluster + "\n")

    def save_summary(self, profile: Profile, summary: CertificateSummary) -> None:
        """Write the summary, which marks the files of the profile's user as complete."""
        self.write(self.files(profile).summary, json.dumps(summary._asdict(), indent=1))

    def write(self, path: Path, content: str | bytes) -> None:
        """Replace a file here by ``content``, mode 0600; raises :class:`TeleError`."""
        private_folder(self.path, (path.parent.name, *self._ours()))
        if path.parent != self.path:
            private_folder(path.parent)
        replace_file(path, content, 0o600)

    def _ours(self) -> tuple[str, ...]:
        """Names of files by which a folder is recognized as ours."""
        made = (*self.path.glob("*/profile.json"), *self.path.glob("*/*.pub"))
        return ("current", *(found.parent.name for found in made))


def is_valid(summary: CertificateSummary | None) -> bool:
    """Whether there is a certificate that has not expired."""
    return summary is not None and time.time() < summary.expires - MARGIN


def logged_in(
    home: Home, cluster: str | None = None, proxy: str | None = None, user: str | None = None
) -> tuple[Profile, CertificateSummary]:
    """Return the profile that the options choose, and the summary of its valid certificate.

    Raises :class:`NotLoggedIn` with the command to type.
    """
    profile = home.chosen(cluster, proxy, user)
    if profile is None:
        to = f" to {cluster or proxy}" if cluster or proxy else ""
        address = proxy or "HOST:PORT"
        raise NotLoggedIn(f"not logged in{to}; type: tele login --proxy {address}")
    again = f"tele login --proxy {profile.proxy} --user {profile.user}"
    summary = home.summary(profile)
    if summary is None:
        raise NotLoggedIn(f"not logged in to {profile.cluster} as {profile.user}; type: {again}")
    if not is_valid(summary):
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(summary.expires))
        raise NotLoggedIn(
            f"the certificate of {profile.user} for {profile.cluster} expired {when}; type: {again}"
        )
    return profile, summary


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _damaged(path)
    return value


def _damaged(path: Path) -> TeleError:
    return TeleError(f"{path} is damaged; remove it and log in again")


def private_folder(path: Path, ours: Collection[str] | None = None) -> Path:
    """Make the folder with mode 0700; raises :class:`TeleError`.

    ``ours``: see :func:`tele.private_files.own_folder`.
    """
    try:
        own_folder(path, ours, strict=True)
    except InvalidInput as error:
        raise InvalidInput(f"{error}\nset TELE_HOME to a folder of yours") from None
    except FileExistsError:
        raise TeleError(f"{path} is not a folder") from None
    except OSError as error:
        raise TeleError(f"cannot use the folder {path}: {error.strerror}") from None
    return path


def replace_file(path: Path, content: str | bytes, mode: int) -> None:
    """Replace a file atomically and durably; raises :class:`TeleError`."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        write_file(path, data, mode=mode)
    except OSError as error:
        raise TeleError(f"cannot write {path}: {error.strerror}") from None
