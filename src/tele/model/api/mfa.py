"""Operations on second factors: users set up their own, administrators see and remove them."""

from __future__ import annotations

from datetime import datetime

from attrs import field, frozen

from tele.model.api.operation import Nothing, Operation, Permitted, Users
from tele.model.bounds import OMITTED, AtMost
from tele.model.second_factors import (
    ANSWER_LIMIT,
    NAME_LIMIT,
    MfaDevice,
    NewDevice,
    SecondFactor,
)


@frozen
class GetMfa:
    """The devices of ``user``; empty: of the caller."""

    user: str = ""


@frozen
class MfaDevices:
    """``recovery_codes`` is how many are left; ``mode`` is the cluster's ``second_factor``."""

    user: str
    devices: tuple[MfaDevice, ...]
    recovery_codes: int
    mode: str


@frozen
class AddMfa:
    """Set up an authenticator app for the caller, who proves the password and, with a device
    already, a second factor.
    """

    device: NewDevice
    password: str = field(repr=False)
    second_factor: SecondFactor | None = field(default=None, metadata=OMITTED)


@frozen
class MfaAdded:
    """``recovery_codes`` are there with the first device, this once."""

    device: MfaDevice
    recovery_codes: tuple[str, ...] = field(default=(), repr=False)


@frozen
class RemoveMfa:
    """Remove a device of the caller, by its id or name; proves password and second factor."""

    device: str
    password: str = field(repr=False)
    second_factor: SecondFactor | None = field(default=None, metadata=OMITTED)


@frozen
class NewRecoveryCodes:
    """Make new recovery codes for the caller, who proves password and second factor."""

    password: str = field(repr=False)
    second_factor: SecondFactor | None = field(default=None, metadata=OMITTED)


@frozen
class RecoveryCodes:
    """New recovery codes, shown this once; earlier ones are void."""

    recovery_codes: tuple[str, ...] = field(repr=False)


@frozen
class BeginWebauthn:
    """Begin to set up a security key for the caller; proves password and second factor."""

    password: str = field(repr=False)
    second_factor: SecondFactor | None = field(default=None, metadata=OMITTED)


@frozen
class WebauthnOptions:
    """What a browser needs to make the key, as it reads it in JSON; good for five minutes."""

    options: str


@frozen
class AddWebauthn:
    """Set up the security key that the browser's ``answer`` is of (JSON); ``name`` is for lists."""

    name: str = field(validator=AtMost(NAME_LIMIT))
    answer: str = field(repr=False, validator=AtMost(ANSWER_LIMIT))


@frozen
class CertifyMfaSession:
    """Certify a key of the caller for one session on a node (name or id).

    Only if a role asks for a second factor there (``require_mfa``).
    """

    node: str = field(validator=AtMost(255))
    ssh_public_key: str = field(validator=AtMost(4096))
    second_factor: SecondFactor | None = field(default=None, metadata=OMITTED)


@frozen
class MfaSession:
    """A certificate (a line) for a session on a host, which has to begin before ``expires``.

    All are empty if no second factor is needed.
    """

    certificate: str = ""
    host_id: str = ""
    expires: datetime | None = None


@frozen
class ResetMfa:
    """Remove the ``device`` (id or name) of the user ``name``; empty: all their devices."""

    name: str
    device: str = ""


_LIMIT = 16 * 1024

GET_MFA = Operation(
    "get_mfa", "GET", "/v1/mfa", GetMfa, MfaDevices, (Users(),),
    "One's second factors, or those of a user",
)  # fmt: skip

ADD_MFA = Operation(
    "add_mfa", "POST", "/v1/mfa", AddMfa, MfaAdded, (Users(),),
    "Set up a second factor for oneself", limit=_LIMIT, cost=50,
)  # fmt: skip

REMOVE_MFA = Operation(
    "remove_mfa", "POST", "/v1/mfa/remove", RemoveMfa, Nothing, (Users(),),
    "Remove one's own second factor", limit=_LIMIT, cost=50,
)  # fmt: skip

NEW_RECOVERY_CODES = Operation(
    "new_recovery_codes", "POST", "/v1/mfa/recovery", NewRecoveryCodes, RecoveryCodes, (Users(),),
    "Make new recovery codes", limit=_LIMIT, cost=50,
)  # fmt: skip

BEGIN_WEBAUTHN = Operation(
    "begin_webauthn", "POST", "/v1/mfa/webauthn", BeginWebauthn, WebauthnOptions, (Users(),),
    "Begin to set up a security key for oneself", limit=_LIMIT, cost=50,
)  # fmt: skip

ADD_WEBAUTHN = Operation(
    "add_webauthn", "POST", "/v1/mfa/webauthn/answer", AddWebauthn, MfaAdded, (Users(),),
    "Set up a security key for oneself", limit=_LIMIT, cost=5,
)  # fmt: skip

CERTIFY_MFA_SESSION = Operation(
    "certify_mfa_session", "POST", "/v1/mfa/session", CertifyMfaSession, MfaSession, (Users(),),
    "Show a second factor for a session", limit=_LIMIT, cost=5,
)  # fmt: skip

RESET_MFA = Operation(
    "reset_mfa", "POST", "/v1/users/{name}/mfa/reset", ResetMfa, MfaDevices,
    (Permitted("user", "update", each=True),), "Remove second factors of a user", cost=2,
)  # fmt: skip
