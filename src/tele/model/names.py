"""Which names may users, roles and hosts have?"""

from __future__ import annotations

from typing import Final

from tele.model.bounds import Pattern

#: Names of users, roles and nodes: what is safe in a file name, a URL and a certificate.
NAME_PATTERN: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,126}[A-Za-z0-9])?"
NAME: Final = Pattern(NAME_PATTERN)
#: New names of hosts: for ssh, what is before an ``@`` is a login.
HOST_NAME_PATTERN: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?"
HOST_NAME: Final = Pattern(HOST_NAME_PATTERN)
