"""What has to be revoked when a user is removed or changed?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tele.model.resources import Metadata, User, UserSpec
from tele.model.revocation import UserRevocation, revoked_before
from tele.rbac.revoking import (
    LONGEST_CERTIFICATE,
    after_change,
    after_removal,
    issued_from,
    revocation_ttl,
)

NOW = datetime(2026, 11, 29, 12, 0, 0, 250_000, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def user(*roles: str, expires: datetime | None = None, **traits: tuple[str, ...]) -> User:
    return User(Metadata("alice", expires=expires), UserSpec(roles, traits))


def test_a_removal_voids_what_was_issued_up_to_then() -> None:
    """Certificates know whole seconds: the one of this second is void, too."""
    gone = after_removal(None, "alice", NOW)
    assert gone == UserRevocation("alice", removed=revoked_before(NOW))
    assert gone.removed is not None
    assert gone.removed > NOW


def test_unchanged_rights_revoke_nothing() -> None:
    """A new user, a change of order and a description leave sessions and certificates alone."""
    before = user("access", "dev", logins=("root", "alice"))
    after = user("dev", "access", logins=("alice", "root"))
    assert after_change(None, before, after, NOW) is None
    assert after_change(None, None, after, NOW) is None


def test_a_given_role_is_published() -> None:
    """Certificates from before a role or a value was given are known: it may deny something."""
    given = after_change(None, user("access"), user("access", "suspended"), NOW)
    assert given == UserRevocation(
        "alice", narrowed=revoked_before(NOW), roles=("access", "suspended")
    )
    value = after_change(None, user("access"), user("access", denied=("root",)), NOW)
    assert value is not None
    assert value.traits == {"denied": ("root",)}


def test_a_lost_role_or_login_narrows() -> None:
    """What is taken away is gone from certificates that still say it."""
    narrowed = after_change(None, user("access", "editor"), user("access"), NOW)
    assert narrowed == UserRevocation("alice", narrowed=revoked_before(NOW), roles=("access",))
    had, has = user("access", logins=("root", "alice")), user("access", logins=("alice",))
    lost = after_change(None, had, has, NOW)
    assert lost is not None
    assert lost.traits == {"logins": ("alice",)}
    again = after_change(narrowed, user("access"), user("access", "editor"), LATER)
    assert again is not None
    assert (again.narrowed, again.roles) == (revoked_before(LATER), ("access", "editor"))


def test_the_end_of_a_user_is_published_before_it_comes() -> None:
    """Nodes know when a user expires, though auth may be away then; no expiry, no revocation."""
    ends = after_change(None, user("access"), user("access", expires=LATER), NOW)
    assert ends == UserRevocation("alice", expires=LATER)
    assert revocation_ttl(ends, NOW) > LATER - NOW + LONGEST_CERTIFICATE
    assert after_change(ends, user("access", expires=LATER), user("access"), NOW) is None


def test_an_end_may_be_the_last_moment_that_there_is() -> None:
    """An expiry at the last date is published for a time that can still be added to now."""
    ends = UserRevocation("alice", expires=datetime.max.replace(tzinfo=UTC))
    assert NOW + revocation_ttl(ends, NOW) > NOW + timedelta(days=365 * 100)


def test_a_new_user_of_a_name_does_not_revive_its_old_certificates() -> None:
    """Removed stays removed, and expired too, also after another user gets the name."""
    gone = after_removal(None, "alice", NOW)
    assert after_change(gone, None, user("access"), LATER) == gone
    expired = UserRevocation("alice", expires=NOW)
    back = after_change(expired, None, user("access"), LATER)
    assert back == UserRevocation("alice", removed=revoked_before(LATER))


def test_a_new_certificate_is_never_void() -> None:
    """What is issued in the second of a revocation is issued as of its end."""
    gone = after_removal(None, "alice", NOW)
    assert issued_from(gone, NOW) == gone.removed
    assert issued_from(gone, LATER) == LATER
    assert issued_from(None, NOW) == NOW
