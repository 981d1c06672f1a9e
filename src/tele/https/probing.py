"""Why does auth not answer through a proxy: is auth away, or is a clock wrong?

Asked after a call has failed, never before one. Invariants:

* Nothing of the user's is sent: no certificate, no name.
* The result is an error message. Nothing is trusted because of it; auth's date counts only if
  the server has a certificate of the cluster's CA.
* It takes a few seconds at most, and where nothing is found the first error stays.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any, Final

from tele.errors import TeleError, Unreachable, WrongClock
from tele.text import difference

SECONDS: Final = 5.0
#: Clocks that differ by less make no certificate invalid: it is issued for a minute ago.
SKEW_SECONDS: Final = 45.0
ANSWER_LIMIT: Final = 16 * 1024
#: X509_V_FLAG_NO_CHECK_TIME of OpenSSL: the chain and the name are checked, dates are not.
_NO_DATES: Final = 0x200000

Connect = Callable[[ssl.SSLContext, str | None], http.client.HTTPConnection]


def wrong_clock(connect: Connect, context: ssl.SSLContext, server_name: str) -> WrongClock | None:
    """Return how this machine's clock differs from that of auth, whose certificate is verified.

    ``context`` has the cluster's CA, and no certificate of ours.
    """
    context.verify_flags = ssl.VerifyFlags(int(context.verify_flags) | _NO_DATES)
    answer = _get(connect(context, server_name), "/v1/cluster")
    try:
        there = datetime.fromisoformat(answer["time"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        return None
    here = datetime.fromtimestamp(time.time(), UTC)
    ahead = (here - there).total_seconds()
    if abs(ahead) < SKEW_SECONDS:
        return None
    return WrongClock(
        f"the clock of this machine is {difference(ahead)} auth's: here it is {here:%F %T}, there"
        f" {there:%F %T} UTC\n"
        "certificates do not count like this; set the clock that is wrong, then try again"
    )


def proxy_status(connect: Connect, address: str) -> Unreachable | None:
    """Return whether the proxy at ``address`` reaches auth, by a page of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    answer = _get(connect(context, None), "/v1/ping")
    auth = answer.get("auth")
    if auth not in ("ok", "unreachable"):
        return None  # a proxy of an older version, or none
    if auth == "ok":
        return Unreachable(
            f"the proxy {address} is up and says that auth is, but auth did not answer through it;"
            " try again"
        )
    since = ""
    with suppress(KeyError, TypeError, ValueError):
        since = f" since {datetime.fromisoformat(answer['auth_since']).astimezone(UTC):%F %T} UTC"
    return Unreachable(
        f"the proxy {address} is up, but it cannot reach auth{since}\n"
        "check that auth runs, and that the proxy can connect to it"
    )


def _get(connection: http.client.HTTPConnection, path: str) -> dict[str, Any]:
    """Return a small JSON object; nothing if there is none."""
    with closing(connection):
        try:
            connection.connect()
            connection.sock.settimeout(SECONDS)
            connection.request("GET", path, headers={"Host": "auth"})
            response = connection.getresponse()
            answer = json.loads(response.read(ANSWER_LIMIT))
        except (OSError, http.client.HTTPException, ValueError, TeleError):
            return {}
    return answer if response.status == 200 and isinstance(answer, dict) else {}
