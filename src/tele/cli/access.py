"""``tele access``: who may log in where, why, and whether that is as expected."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tele.cli.auth_client import Authority, Where, open_authority, where_options
from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import pages, time_option
from tele.cli.output import (
    format_option,
    plain,
    print_notice,
    print_text,
    show_data,
    show_table,
)
from tele.errors import InvalidInput, NotFound, quoted

if TYPE_CHECKING:  # the reader of YAML and the rules take too long to import
    from tele.config.document import Value
    from tele.model.access_tests import AccessTest
    from tele.model.identity import UserIdentity
    from tele.rbac.explaining import Explanation


@click.group(
    cls=LazyGroup,
    lazy={
        "explain": Lazy("tele.cli.access:explain", "Say why a user may log in, or not."),
        "test": Lazy("tele.cli.access:test", "Check that roles do what is expected."),
    },
)
def access() -> None:
    """Explain and test what roles allow."""


class Cluster:
    """The resources that decide: of a cluster, of files, or both. Files win."""

    def __init__(self) -> None:
        self.users: dict[str, Any] = {}
        self.roles: dict[str, Any] = {}
        self.locks: list[Any] = []
        self.nodes: list[Any] = []

    def read(self, authority: Authority) -> None:
        """Read users, roles, locks and nodes of a cluster."""
        from tele.model.api.hosts import LIST_HOSTS, ListHosts
        from tele.model.api.locks import LIST_LOCKS
        from tele.model.api.paging import Paged
        from tele.model.api.roles import LIST_ROLES
        from tele.model.api.users import LIST_USERS
        from tele.model.identity import HostRole

        def every(operation: Any) -> list[Any]:
            found = pages(lambda after, size: authority.perform(operation, Paged(size, after)))
            return [each for some in found for each in some]

        self.users = {each.metadata.name: each for each in every(LIST_USERS)}
        self.roles = {each.metadata.name: each for each in every(LIST_ROLES)}
        self.locks = every(LIST_LOCKS)
        hosts = pages(
            lambda after, size: authority.perform(
                LIST_HOSTS, ListHosts(HostRole.NODE, (), size, after)
            )
        )
        self.nodes = [each for some in hosts for each in some]

    def identity(self, user: str, now: datetime) -> UserIdentity:
        """Return the identity that a login gives now. Raises :class:`NotFound`."""
        from tele.model.identity import UserIdentity

        found = self.users.get(user)
        if found is None:
            raise NotFound(f"no such user: {quoted(user)}")
        expires = found.metadata.expires or now + timedelta(hours=1)
        return UserIdentity(user, "", expires, found.spec.roles, (), found.spec.traits, issued=now)

    def node(self, name: str) -> tuple[str, Mapping[str, str]]:
        """Return id and labels of a node by name or id. Raises a TeleError."""
        found = [each for each in self.nodes if name in (each.name, each.id)]
        if len(found) > 1:
            ids = " ".join(each.id for each in found)
            raise InvalidInput(f"several nodes have the name {quoted(name)}; give an id: {ids}")
        if not found:
            raise NotFound(f"no such node: {quoted(name)}")
        return found[0].id, found[0].labels


@click.command()
@click.argument("user")
@click.argument("target", metavar="LOGIN@NODE")
@time_option("--at", "Decide as of this time.  [default: now]")
@format_option()
@where_options(local=True)
def explain(user: str, target: str, at: datetime | None, form: str, where: Where) -> None:
    """Say, role by role, whether a user may log in to a node, and why.

    It is decided as for a new certificate: roles that a user was given since the last login count.
    """
    from tele.rbac.explaining import explain as explained

    login, separator, node = target.rpartition("@")
    if not separator or not login or not node:
        raise InvalidInput(f"{quoted(target)} is not LOGIN@NODE")
    now = at or datetime.now(UTC)
    cluster = Cluster()
    with open_authority(where) as authority:
        cluster.read(authority)
    host_id, labels = cluster.node(node)
    identity = cluster.identity(user, now)
    found = explained(identity, login, node, labels, cluster.roles, cluster.locks, now, host_id)
    if form != "text":
        show_data(form, plain(found))
        return
    _print(found)


def _print(found: Explanation) -> None:
    may = "may" if found.allowed else "may not"
    print_text(f"{found.user} {may} log in as {found.login} to {found.node}")
    if not found.allowed:
        print_text(f"reason: {found.reason}: {found.message}")
    print_text("")
    show_table(
        ("ROLE", "EFFECT", "WHY"),
        [(each.role, each.effect.value, "; ".join(each.why)) for each in found.roles],
    )
    if found.allowed:
        print_text("")
        given = [(action, ", ".join(roles)) for action, roles in found.actions.items()]
        show_table(("GIVES", "BY"), given)
        print_text("")
        limits = [
            (kind, ", ".join(reach.allow) or "nothing", ", ".join(reach.deny))
            for kind, reach in found.reach.items()
        ]
        show_table(("KIND", "WHERE", "BUT NOT"), limits)


@click.command()
@click.option(
    "-f",
    "--file",
    "files",
    type=click.Path(path_type=Path, allow_dash=True),
    required=True,
    multiple=True,
    help="A YAML file of expectations, roles and users; - is standard input. May be repeated.",
)
@click.option(
    "--offline", is_flag=True, help="Ask no cluster: roles and users are those of the files."
)
@format_option()
@where_options(local=True)
def test(files: Sequence[Path], offline: bool, form: str, where: Where) -> None:
    """Check that roles allow and deny what files expect; the exit status is 1 if not.

    Documents of kind access_tests have expectations. Roles and users in the files count in place of
    those of the cluster: what is expected can be checked before the roles are applied.
    """
    documents = [each for file in files for each in _documents(file)]
    cluster = Cluster()
    if not offline:
        with open_authority(where) as authority:
            cluster.read(authority)
    expected = _taken(documents, cluster)
    if not expected:
        raise InvalidInput("the files have no document of kind access_tests with a test")
    now = datetime.now(UTC)
    results = []
    for place, each in expected:
        try:
            results.append(_checked(place, each, cluster, now))
        except (InvalidInput, NotFound) as error:
            raise type(error)(f"{place}: {error}") from None
    failed = [row for row in results if row["problem"]]
    if form == "text":
        for row in failed:
            print_text(f"{row['place']}: {row['subject']}: {row['problem']}")
        print_notice(f"{len(results)} expectations, {len(failed)} not met")
    else:
        show_data(form, results)
    if failed:
        raise click.exceptions.Exit(1)


def _documents(file: Path) -> Sequence[Value]:
    from tele.config.document import read_documents

    name = "standard input" if str(file) == "-" else str(file)
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(f"{name} is not UTF-8") from None
    return read_documents(text, name)


def _taken(documents: Sequence[Value], cluster: Cluster) -> list[tuple[str, AccessTest]]:
    """Put roles and users of files into ``cluster``; return the tests, each with its place.

    Raises :class:`InvalidInput` with the line of a mistake.
    """
    from tele.model.access_tests import AccessTest, AccessTests
    from tele.model.codec import from_json
    from tele.model.resources import Role, User
    from tele.rbac.presets import check_role

    expected = []
    for document in documents:
        resource = document.plain
        kind = resource.get("kind") if isinstance(resource, dict) else None
        try:
            if kind == "role":
                role = from_json(Role, resource)
                check_role(role)
                cluster.roles[role.metadata.name] = role
            elif kind == "user":
                user = from_json(User, resource)
                cluster.users[user.metadata.name] = user
            elif kind == "access_tests":
                entries: Any = document.value
                tests = entries.get("tests")
                if tests is None or not isinstance(tests.value, tuple):
                    raise InvalidInput("tests: expected a list")
                from_json(AccessTests, {**resource, "tests": []})
            else:
                raise InvalidInput("expected a role, a user or access_tests")
        except InvalidInput as error:
            raise InvalidInput(document.located(error)) from None
        if kind == "access_tests":
            for each in tests.value:
                try:
                    expected.append((str(each.place), from_json(AccessTest, each.plain)))
                except InvalidInput as error:
                    raise InvalidInput(each.located(error)) from None
    return expected


def _checked(place: str, wanted: AccessTest, cluster: Cluster, now: datetime) -> dict[str, Any]:
    """Return the outcome of one expectation; its ``problem`` is empty if it is met."""
    from tele.model.identity import UserIdentity
    from tele.rbac.explaining import explain as explained

    at = wanted.at or now
    if wanted.user:
        identity = cluster.identity(wanted.user, at)
    else:
        identity = UserIdentity(
            "user", "", at + timedelta(hours=1), wanted.roles, (), wanted.traits, issued=at
        )
    host_id, labels = cluster.node(wanted.node) if wanted.node else ("", wanted.labels or {})
    found = explained(
        identity, wanted.login, wanted.node, labels, cluster.roles, cluster.locks, at, host_id
    )
    return {
        "place": place,
        "subject": wanted.subject,
        "allowed": found.allowed,
        "reason": found.reason,
        "problem": _problem(wanted, found),
    }


def _problem(wanted: AccessTest, found: Explanation) -> str:
    allow = wanted.expect.value == "allow"
    if not found.allowed:
        if allow:
            return f"expected allow, but denied ({found.reason}): {found.message}"
        if wanted.reason is not None and wanted.reason.value != found.reason:
            return f"expected {wanted.reason.value}, but denied ({found.reason}): {found.message}"
        return ""
    giving = ", ".join(each.role for each in found.roles if each.effect.value == "allows")
    if not allow:
        return f"expected deny, but allowed by {giving}"
    missing = [each.value for each in wanted.gives if each.value not in found.actions]
    if missing:
        return f"expected {', '.join(missing)}, which {giving} does not give"
    more = [f"{each.value} by {', '.join(found.actions[each.value])}" for each in wanted.withholds
            if each.value in found.actions]  # fmt: skip
    more += [f"{kind} {what}" for kind, what in _reached(wanted.may_not, found, False)]
    if more:
        return f"not expected: {'; '.join(more)}"
    out = [f"{kind} {what}" for kind, what in _reached(wanted.may, found, True)]
    return f"expected {', '.join(out)}, which {giving} does not allow" if out else ""


def _reached(
    listed: Mapping[Any, tuple[str, ...]], found: Explanation, expected: bool
) -> list[tuple[str, str]]:
    """Return what of ``listed`` is not as expected: allowed, or not."""
    from tele.rbac.reach import includes

    return [
        (kind.value, what)
        for kind, several in listed.items()
        for what in several
        if includes(kind.value, found.reach[kind.value], what) is not expected
    ]
