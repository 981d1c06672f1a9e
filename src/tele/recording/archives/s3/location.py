"""Where is the bucket? The arguments of ``recordings: s3://...``.

Invariants:

* What is not understood is refused: a setting is never ignored.
* Without TLS only an address of this machine is reached.
* A key needs no escapes: it has letters, digits, ``.``, ``_``, ``-`` and ``/``.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from attrs import frozen

from tele.errors import InvalidInput, quoted

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_PREFIX = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*", re.ASCII)
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_KEYS: Final = ("endpoint", "region", "path_style", "ca_file")
_PREFIX_LIMIT: Final = 256
_FORM: Final = "s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=REGION&path_style=yes"


@frozen
class Location:
    """A bucket. ``host`` and ``port`` are those that are connected to.

    ``path_style``: the bucket is in the path, not in the host's name. ``ca_file``: the certificates
    that the server's certificate is checked by, in PEM; those of the system by default.
    """

    bucket: str
    prefix: str
    tls: bool
    endpoint: str
    port: int
    region: str
    path_style: bool
    ca_file: Path | None = None

    @property
    def host(self) -> str:
        """The host of the bucket, which its certificate is for."""
        return self.endpoint if self.path_style else f"{self.bucket}.{self.endpoint}"

    @property
    def authority(self) -> str:
        """The value of the header ``Host``."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return shown if self.port == (443 if self.tls else 80) else f"{shown}:{self.port}"

    def path(self, key: str) -> str:
        """Return the path of the object ``key``, which needs no escapes."""
        whole = f"{self.prefix}/{key}" if self.prefix else key
        return f"/{self.bucket}/{whole}" if self.path_style else f"/{whole}"

    def __str__(self) -> str:
        return f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


def parse_location(arguments: str) -> Location:
    """Read ``//bucket/prefix?key=value&...``. Raises :class:`InvalidInput`."""
    try:
        parts = urlsplit(arguments)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True))
    except ValueError:
        if "?" in arguments and not arguments.endswith("?"):
            raise InvalidInput(f"s3: cannot be read; it is {_FORM}") from None
        options = {}
    if parts.scheme or parts.fragment or not parts.netloc:
        raise InvalidInput(f"s3 needs a bucket: {_FORM}")
    if not _BUCKET.fullmatch(parts.netloc) or ".." in parts.netloc:
        raise InvalidInput(f"s3: {quoted(parts.netloc)} is not the name of a bucket")
    prefix = parts.path.strip("/")
    if prefix and (len(prefix) > _PREFIX_LIMIT or not _PREFIX.fullmatch(prefix)):
        raise InvalidInput(f"s3: a prefix is letters, digits and ._- between slashes: {prefix!r}")
    for name in options:
        if name not in _KEYS:
            raise InvalidInput(f"s3: unknown key {quoted(name)}; there are {', '.join(_KEYS)}")
    region = options.get("region", "us-east-1")
    if not _REGION.fullmatch(region):
        raise InvalidInput(f"s3: {quoted(region)} is not the name of a region")
    tls, host, port = _endpoint(options.get("endpoint") or f"https://s3.{region}.amazonaws.com")
    style = options.get("path_style", "no")
    if style not in ("yes", "no"):
        raise InvalidInput("s3: path_style is yes or no")
    ca_file = options.get("ca_file")
    return Location(
        parts.netloc,
        prefix,
        tls,
        host,
        port,
        region,
        style == "yes",
        Path(ca_file) if ca_file else None,
    )


def _endpoint(text: str) -> tuple[bool, str, int]:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidInput(f"s3: {quoted(text)} is not an endpoint") from None
    host = parts.hostname or ""
    plain = parts.scheme in ("http", "https") and not parts.query and not parts.fragment
    if not plain or not host or parts.path.strip("/") or parts.username is not None:
        raise InvalidInput(f"s3: an endpoint is https://HOST:PORT, not {quoted(text)}")
    tls = parts.scheme == "https"
    if not tls and not _is_here(host):
        raise InvalidInput(
            f"s3: {quoted(text)} is without TLS, which is only for an address of this machine"
        )
    return tls, host, port or (443 if tls else 80)


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
