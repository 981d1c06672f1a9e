"""Lines of a known_hosts file that make OpenSSH clients trust our hosts."""

from __future__ import annotations

from collections.abc import Iterable

from tele.certs.keys import encode_line, parse_line, parse_public_key


def cert_authority_lines(patterns: Iterable[str], keys: Iterable[str]) -> str:
    """Return ``@cert-authority`` lines: hosts that match ``patterns`` are signed by ``keys``.

    ``keys`` are lines ``type base64``. The format is sshd(8), SSH_KNOWN_HOSTS FILE FORMAT.
    """
    hosts = ",".join(patterns)
    lines = []
    for key in keys:
        public = parse_public_key(parse_line(key))
        lines.append(f"@cert-authority {hosts} {encode_line(public.type, public.blob)}\n")
    return "".join(lines)
