"""How long does a decision about a login take in a large cluster?

    python bench/decide.py [--roles 10000] [--nodes 100000] [--decisions 20000]

Makes a cluster of so many roles and nodes, with labels, globs, regular expressions, templates,
conditions and windows of time, in memory, and prints JSON. For users with a few roles (``held``
of them), and for one who has all of the roles:

median_us   a decision, in microseconds of CPU
p99_us      the slowest of a hundred
worst_ms    the slowest, in milliseconds
allowed     how many were allowed, of ``decisions``

and ``policy_ms``: how long a node or a proxy needs when the roles change. The limit is 1 ms for
``p99_us`` of users with up to 20 roles.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tele.model.access import Grant
from tele.model.identity import UserIdentity
from tele.model.resources import Conditions, Metadata, Role, RoleOptions, RoleSpec
from tele.model.time_windows import TimeWindow
from tele.rbac.policy import Policy
from tele.rbac.presets import check_role

NOW: Final = datetime(2026, 11, 30, 12, tzinfo=UTC)
ENVS: Final = ("prod", "test", "dev", "lab")
HELD: Final = (1, 5, 20)


def make_role(number: int, dice: random.Random) -> Role:
    """Return one of some kinds of roles."""
    team = f"team-{number % 500}"
    labels: Mapping[str, tuple[str, ...]] = {"env": (dice.choice(ENVS),), "team": (team,)}
    expression = ""
    deny = Conditions()
    options = RoleOptions()
    match number % 6:
        case 0:
            labels = {"team": (f"{team[:-1]}*",), "env": ("^(prod|test)$",)}
        case 1:
            labels = {"team": ("{{internal.team}}",)}
        case 2:
            labels, expression = {}, (
                'labels.env != "prod" && contains(user.traits.team, labels.team)'
                ' || regexp.match(labels.host, "^h-[0-9]+$") && glob.match(labels.team, "team-1*")'
            )  # fmt: skip
        case 3:
            deny = Conditions(("root",), {"frozen": ("*",)})
        case 4:
            options = RoleOptions(valid_times=(TimeWindow((), "08:00", "18:00", "Europe/Berlin"),))
    allow = Conditions(
        ("{{internal.logins}}", "svc-{{internal.team}}"), labels, node_labels_expression=expression
    )
    made = Role(Metadata(f"role-{number}"), RoleSpec(allow, deny, options))
    check_role(made)
    return made


def make_node(number: int, dice: random.Random) -> Mapping[str, str]:
    """Return the labels of a node."""
    labels = {
        "env": dice.choice(ENVS), "team": f"team-{number % 500}", "host": f"h-{number}",
        "zone": f"z{number % 7}", "os": "debian",
    }  # fmt: skip
    return labels | ({"frozen": "yes"} if number % 50 == 0 else {})


def measure(
    policy: Policy, users: Sequence[UserIdentity], nodes: Sequence[Mapping[str, str]], count: int
) -> dict[str, Any]:
    """Decide ``count`` times about a user, a login and a node."""
    dice = random.Random(count)
    taken, allowed = [], 0
    for _ in range(count):
        user, labels = dice.choice(users), dice.choice(nodes)
        login = dice.choice(("alice", "root", f"svc-{labels['team']}"))
        begin = time.thread_time()
        decided = policy.decide(user, login, labels, NOW, labels["host"])
        taken.append(time.thread_time() - begin)
        allowed += isinstance(decided, Grant)
    taken.sort()
    return {
        "decisions": count,
        "allowed": allowed,
        "median_us": round(statistics.median(taken) * 1e6, 1),
        "p99_us": round(taken[int(count * 0.99)] * 1e6, 1),
        "worst_ms": round(taken[-1] * 1e3, 2),
    }


def main() -> None:
    """Make the cluster, decide, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--roles", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--decisions", type=int, default=20_000)
    given = parser.parse_args()
    dice = random.Random(1)
    roles = {f"role-{n}": make_role(n, dice) for n in range(given.roles)}
    nodes = [make_node(n, dice) for n in range(given.nodes)]
    gc.collect()
    gc.freeze()  # what was made stays: collections would be measured instead
    begin = time.thread_time()
    policy = Policy(roles)
    results: dict[str, Any] = {
        "roles": given.roles,
        "nodes": given.nodes,
        "policy_ms": round((time.thread_time() - begin) * 1e3, 2),
    }

    def users_with(held: int) -> list[UserIdentity]:
        made = []
        for _ in range(200):
            team = f"team-{dice.randrange(500)}"
            names = tuple(f"role-{dice.randrange(given.roles)}" for _ in range(held))
            traits = {"logins": ("alice",), "team": (team, "team-1")}
            made.append(
                UserIdentity("alice", "c", NOW + timedelta(hours=1), names, ("alice",), traits)
            )
        return made

    for held in HELD:
        results[f"held_{held}"] = measure(policy, users_with(held), nodes, given.decisions)
    everything = UserIdentity(
        "alice", "c", NOW + timedelta(hours=1), tuple(roles), ("alice",), {"logins": ("alice",)}
    )
    results["held_all"] = measure(policy, [everything], nodes, max(1, given.decisions // 1000))
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
