"""How long are certificates and tokens valid if nothing else is asked for?

These are the only places of these values: requests, commands and their help take them from here.
Roles and auth's limits may shorten what is asked for.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

#: Certificates of users, from ``tele login`` and ``tele ca sign-user``.
USER_LIFETIME: Final = timedelta(hours=12)
#: Certificates of hosts, from the join, its renewal and ``tele ca sign-host``.
HOST_LIFETIME: Final = timedelta(hours=24)
#: For how long after the end of its certificate a host may come back without a token.
REJOIN_LIMIT: Final = timedelta(days=30)
#: Certificates of the authorities themselves.
AUTHORITY_LIFETIME: Final = timedelta(days=3650)
#: Join tokens.
TOKEN_LIFETIME: Final = timedelta(minutes=30)
#: Tokens of machine identities, and the certificates that these get.
BOT_TOKEN_LIFETIME: Final = timedelta(days=30)
BOT_LIFETIME: Final = timedelta(hours=1)
#: Invitations of users.
INVITATION_LIFETIME: Final = timedelta(days=2)
