"""Which roles does every cluster begin with?"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from tele.errors import InvalidInput, quoted
from tele.model.resources import Conditions, Metadata, Role, RoleSpec, Rule
from tele.rbac.forced import trouble_with
from tele.rbac.labels import check_condition
from tele.rbac.logins import check_logins

#: Log in everywhere, as the accounts that the user's ``logins`` trait names.
ACCESS: Final = Role(
    Metadata("access", description="Log in to every node as one's own logins"),
    RoleSpec(
        allow=Conditions(logins=("{{internal.logins}}",), node_labels={"*": ("*",)}),
    ),
)

#: Change the cluster: users, roles, tokens, nodes, locks, authorities.
EDITOR: Final = Role(
    Metadata("editor", description="Administer users, roles, tokens, nodes and locks"),
    RoleSpec(
        allow=Conditions(
            rules=(
                Rule(("user", "role", "token", "node", "lock", "authority"), ("*",)),
                Rule(("session",), ("list", "read")),
            )
        )
    ),
)

#: See what happened: sessions, recordings, audit events.
AUDITOR: Final = Role(
    Metadata("auditor", description="Read the audit, sessions and recordings"),
    RoleSpec(
        allow=Conditions(
            rules=(
                Rule(("event", "session"), ("list", "read")),
                Rule(("recording",), ("list", "read", "delete")),
            )
        )
    ),
)

PRESETS: Final = (ACCESS, EDITOR, AUDITOR)

#: What rules can be about, and what they can let one do.
RESOURCES: Final = (
    "user", "role", "token", "node", "lock", "authority", "session", "recording", "event"
)  # fmt: skip
VERBS: Final = ("list", "read", "create", "update", "delete")


def check_role(role: Role) -> None:
    """Raise :class:`tele.errors.InvalidInput` for a role that cannot mean what it says."""
    check_logins(role.spec.allow.logins)
    check_logins(role.spec.deny.logins, deny=True)
    check_condition(role.spec.allow.node_labels)
    check_condition(role.spec.deny.node_labels)
    for rule in (*role.spec.allow.rules, *role.spec.deny.rules):
        _check_words(rule.resources, RESOURCES, "resource")
        _check_words(rule.verbs, VERBS, "verb")
    if role.spec.options.max_sessions < 0 or role.spec.options.max_session_ttl <= timedelta(0):
        raise InvalidInput("options: max_sessions and max_session_ttl cannot be negative or nought")
    trouble = trouble_with(role.spec.options.force_command)
    if trouble is not None:
        raise InvalidInput(f"options: {trouble}")


def _check_words(said: tuple[str, ...], known: tuple[str, ...], what: str) -> None:
    """A word that nothing goes by would do nothing, above all in a denial."""
    for word in said or ("",):
        if word != "*" and word not in known:
            raise InvalidInput(f"{quoted(word)} is no {what}: one of {', '.join(known)} or *")
