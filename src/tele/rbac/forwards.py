"""What may be forwarded with a role, and what do several roles deny?

Invariants:

* A role that says what it forwards, or that forces a command, forwards nothing that it does not
  name.
* What the options and the list of a role say differently is refused when it is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tele.errors import InvalidInput
from tele.model.actions import EVERY_PATH, EVERYWHERE, NO_RULES, ForwardRules
from tele.model.resources import Role
from tele.rbac.destinations import check_destinations, check_listening
from tele.rbac.forced import may_forward
from tele.spawner.path_patterns import pattern_problem

#: Patterns in one list.
PATTERNS_LIMIT: Final = 256


def given_by(role: Role, forced: bool) -> ForwardRules:
    """Return what ``role`` lets be forwarded, every kind said; ``forced``: beside a command that
    it, or the certificate, forces.
    """
    allow, options = role.spec.allow.forward, role.spec.options
    strict = forced or allow != NO_RULES
    ports = may_forward(options.port_forwarding, strict)
    agent = may_forward(options.forward_agent, strict)
    return ForwardRules(
        local=_listed(allow.local, EVERYWHERE, ports),
        remote=_listed(allow.remote, EVERYWHERE, ports),
        streamlocal=_listed(allow.streamlocal, EVERY_PATH, ports),
        agent=agent if allow.agent is None else allow.agent,
        x11=options.x11_forwarding if allow.x11 is None else allow.x11,
    )


def _listed(said: tuple[str, ...] | None, all_of: tuple[str, ...], all_: bool) -> tuple[str, ...]:
    if said is not None:
        return said
    return all_of if all_ else ()


def any_port(rules: ForwardRules) -> bool:
    """Whether some port or path of a socket may be forwarded."""
    return bool(rules.local or rules.remote or rules.streamlocal)


def denied_by(roles: Iterable[Role]) -> ForwardRules:
    """Return what any of ``roles`` denies to forward."""
    denied = [role.spec.deny.forward for role in roles]
    return ForwardRules(
        local=_union(each.local for each in denied),
        remote=_union(each.remote for each in denied),
        streamlocal=_union(each.streamlocal for each in denied),
        agent=any(each.agent for each in denied) or None,
        x11=any(each.x11 for each in denied) or None,
    )


def _union(lists: Iterable[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    return tuple(sorted({pattern for each in lists for pattern in each or ()})) or None


def check_forwards(role: Role) -> None:
    """Raise :class:`InvalidInput` for rules that mean nothing, or not what the options say."""
    allow, deny, options = role.spec.allow.forward, role.spec.deny.forward, role.spec.options
    _check_patterns(allow, "allow")
    _check_patterns(deny, "deny")
    for name in ("local", "remote", "streamlocal"):
        if getattr(deny, name) == ():
            raise InvalidInput(f"deny: forward: {name} is empty and denies nothing")
        if getattr(allow, name) and options.port_forwarding is False:
            raise InvalidInput(
                f"allow: forward: {name} beside port_forwarding: false: leave that out"
            )
    for name in ("agent", "x11"):
        if getattr(deny, name) is False:
            raise InvalidInput(f"deny: forward: {name}: false denies nothing; leave it out")
    _check_option(allow.agent, options.forward_agent, "agent", "forward_agent")
    x11 = True if options.x11_forwarding else None  # false is what was not said
    _check_option(allow.x11, x11, "x11", "x11_forwarding")


def _check_option(rule: bool | None, option: bool | None, name: str, called: str) -> None:
    if rule is not None and option is not None and rule is not option:
        said, other = (str(each).lower() for each in (rule, option))
        raise InvalidInput(f"allow: forward: {name}: {said} beside {called}: {other}: write one")


def _check_patterns(rules: ForwardRules, side: str) -> None:
    for name in ("local", "remote", "streamlocal"):
        patterns: tuple[str, ...] = getattr(rules, name) or ()
        try:
            if len(patterns) > PATTERNS_LIMIT:
                raise InvalidInput(f"at most {PATTERNS_LIMIT} patterns")
            if name == "streamlocal":
                check_paths(patterns)
            else:
                (check_listening if name == "remote" else check_destinations)(patterns)
        except InvalidInput as error:
            raise InvalidInput(f"{side}: forward: {name}: {error}") from None


def check_paths(patterns: Iterable[str]) -> None:
    """Raise :class:`InvalidInput` for a pattern of paths that is not one."""
    for pattern in patterns:
        if problem := pattern_problem(pattern):
            raise InvalidInput(f"{pattern!r} {problem}")
