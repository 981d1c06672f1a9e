"""Which roles does a new cluster have, and what is a valid role?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final

from tele.errors import InvalidInput, quoted
from tele.model.api.operation import Permitted
from tele.model.api.table import OPERATIONS
from tele.model.resources import (
    Conditions,
    Metadata,
    Role,
    RoleOptions,
    RoleSpec,
    Rule,
    keepalive_problem,
)
from tele.model.trace import SYSCALL, Handovers, TraceKind
from tele.rbac.decision import permits, refusal
from tele.rbac.forced import trouble_with
from tele.rbac.forwards import check_forwards
from tele.rbac.host_users import check_host_users
from tele.rbac.joining import check_joins
from tele.rbac.labels import check_labels
from tele.rbac.logins import check_logins
from tele.rbac.rules import check_where
from tele.rbac.transfers import check_transfers
from tele.rbac.windows import check_windows

#: Log in everywhere, as the accounts that the user's ``logins`` trait names.
ACCESS: Final = Role(
    Metadata("access", description="Log in to every node as one's own logins"),
    RoleSpec(
        allow=Conditions(logins=("{{internal.logins}}",), node_labels={"*": ("*",)}),
    ),
)


def _editor(*resources: str) -> Role:
    return Role(
        Metadata("editor", description="Administer users, roles, tokens, nodes and locks"),
        RoleSpec(
            allow=Conditions(
                rules=(
                    Rule(
                        ("user", "role", "token", "node", "lock", "authority", *resources), ("*",)
                    ),
                    Rule(("session",), ("list", "delete")),
                )
            )
        ),
    )


#: Change the cluster: its settings, users, roles, tokens, nodes, locks, authorities.
EDITOR: Final = _editor("cluster")

#: Read sessions, recordings and audit events.
AUDITOR: Final = Role(
    Metadata("auditor", description="Read the audit, sessions and recordings"),
    RoleSpec(
        allow=Conditions(
            rules=(
                Rule(("event", "session"), ("list",)),
                Rule(("recording",), ("list", "read", "update", "delete")),
            )
        )
    ),
)

PRESETS: Final = (ACCESS, EDITOR, AUDITOR)
#: What presets were in clusters of earlier versions: a role that is still that becomes the preset.
FORMER_PRESETS: Final = (_editor(),)

#: The resources and verbs of rules.
RESOURCES: Final = (
    "user", "role", "token", "node", "lock", "authority", "cluster", "session", "recording",
    "event",
)  # fmt: skip
VERBS: Final = ("list", "read", "create", "update", "delete")

#: All permissions that are checked: by the table of operations, and for the list of all nodes.
PERMISSIONS: Final = frozenset(
    {
        ("node", "list"),
        *(
            (who.resource, who.verb)
            for operation in OPERATIONS.values()
            for who in operation.who
            if isinstance(who, Permitted)
        ),
    }
)


def check_role(role: Role) -> None:
    """Raise :class:`tele.errors.InvalidInput` for a role with a part that has no effect."""
    check_logins(role.spec.allow.logins)
    check_logins(role.spec.deny.logins, deny=True)
    check_host_users(role.spec.allow, role.spec.deny, role.spec.options)
    check_labels(role.spec.allow)
    check_labels(role.spec.deny)
    check_forwards(role)
    check_transfers(role)
    check_joins(role)
    for rule in (*role.spec.allow.rules, *role.spec.deny.rules):
        _check_names(rule.resources, RESOURCES, "resource")
        _check_names(rule.verbs, VERBS, "verb")
        _check_effect(rule)
        check_where(rule)
    if role.spec.options.max_session_ttl <= timedelta(0):
        raise InvalidInput("options: max_session_ttl has to be positive")
    try:
        check_windows(role.spec.options.valid_times)
    except InvalidInput as error:
        raise InvalidInput(f"options: valid_times: {error}") from None
    if role.spec.options.max_forwards < 1:
        raise InvalidInput(
            "options: max_forwards is at least 1; port_forwarding: false forwards nothing"
        )
    keepalive = role.spec.options.client_keepalive
    if keepalive is not None and (problem := keepalive_problem(keepalive)):
        raise InvalidInput(f"options: client_keepalive: {problem}")
    idle = role.spec.options.client_idle_timeout
    if idle is not None and (problem := keepalive_problem(idle)):
        raise InvalidInput(f"options: client_idle_timeout: {problem}")
    most = role.spec.options.max_connections
    if most is not None and most < 1:
        raise InvalidInput("options: max_connections is at least 1; without it there is no limit")
    _check_traced(role.spec.options)
    trouble = trouble_with(role.spec.options.force_command)
    if trouble is not None:
        raise InvalidInput(f"options: {trouble}")


def exceeds(held: Iterable[str], others: Iterable[str], roles: Mapping[str, Role]) -> bool:
    """Whether users with the roles ``held`` may do something through the API that those with the
    roles ``others`` may not: who took over such a user would gain it.
    """
    return any(
        refusal(held, roles, *each, possibly=True) is None and not permits(others, roles, *each)
        for each in PERMISSIONS
    )


def _check_traced(options: RoleOptions) -> None:
    named = options.traced_syscalls
    if named and TraceKind.SYSCALLS not in options.enhanced_recording:
        raise InvalidInput(
            "options: traced_syscalls has no effect without enhanced_recording: [syscalls]"
        )
    if options.handovers is not Handovers.ALLOW and not options.enhanced_recording:
        raise InvalidInput("options: handovers has no effect without enhanced_recording")
    if options.count_repeated_opens and TraceKind.DISK not in options.enhanced_recording:
        raise InvalidInput(
            "options: count_repeated_opens has no effect without enhanced_recording: [disk]"
        )
    for name in named:
        if not SYSCALL.fullmatch(name):
            raise InvalidInput(
                f"options: traced_syscalls: {quoted(name)} is not the name of a system call"
            )


def _check_effect(rule: Rule) -> None:
    """Refuse a rule that no operation checks: it would allow nothing and deny nothing.

    ``*`` is always accepted.
    """
    resources = RESOURCES if "*" in rule.resources else rule.resources
    verbs = () if "*" in rule.verbs else rule.verbs
    for resource in rule.resources if verbs and "*" not in rule.resources else ():
        if not any((resource, verb) in PERMISSIONS for verb in verbs):
            raise InvalidInput(
                f"a rule for {resource} with {', '.join(verbs)} does nothing: for {resource} there"
                f" are {_verbs_of([resource])}"
            )
    for verb in verbs:
        if not any((resource, verb) in PERMISSIONS for resource in resources):
            raise InvalidInput(
                f"the verb {verb} does nothing for {', '.join(rule.resources)}: there are"
                f" {_verbs_of(resources)}"
            )


def _verbs_of(resources: Iterable[str]) -> str:
    known = [v for v in VERBS if any((resource, v) in PERMISSIONS for resource in resources)]
    return ", ".join(known) or "none"


def _check_names(names: tuple[str, ...], known: tuple[str, ...], what: str) -> None:
    """Refuse an unknown name: it would have no effect, above all in a deny rule."""
    for name in names or ("",):
        if name != "*" and name not in known:
            raise InvalidInput(
                f"{quoted(name)} is not a {what}: expected one of {', '.join(known)} or *"
            )
