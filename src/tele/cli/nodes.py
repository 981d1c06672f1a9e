"""``tele ls`` and ``tele nodes``: list and remove nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from tele.cli.auth_client import Authority, Where, current, open_authority, where_options
from tele.cli.home import is_name
from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.node_lists import all_nodes, is_found, node_pages
from tele.cli.node_names import complete_node, remember
from tele.cli.output import Column, ago, format_option, plain, show_data, show_pages, words
from tele.errors import InvalidInput, NotFound, TeleError, quoted

#: Nodes that are listed when several fit.
SHOWN = 5


def _status(node: Mapping[str, Any]) -> str:
    if node["status"] == "online":
        return "online"
    problem = f": {node['problem']}" if node.get("problem") else ""
    if node["last_seen"].startswith("1970-"):  # a machine that no proxy has reached yet
        return f"offline, never reached{problem}"
    return f"offline, {ago(node['last_seen'])}{problem}"


_COLUMNS = (
    Column("NAME", lambda n: n["name"]),
    Column("ADDRESS", lambda n: words(n["addresses"]) or n["mode"]),
    Column("LABELS", lambda n: words(n["labels"])),
    Column("STATUS", _status),
)

_TRACING = (
    Column("NAME", lambda n: n["name"]),
    Column("STATUS", _status),
    Column("TRACES", lambda n: words(n.get("tracing", ())) or "nothing"),
    Column("BECAUSE", lambda n: n.get("untraced", "")),
)


_search = click.option(
    "--search",
    multiple=True,
    metavar="WORD",
    help="Only nodes with this in their name, id, addresses or labels; several: all of them.",
)


@click.command()
@click.argument("labels", nargs=-1, metavar="[K=V ...]")
@_search
@format_option("names", "ansible")
@where_options(local=True)
def ls(labels: tuple[str, ...], search: tuple[str, ...], form: str, where: Where) -> None:
    """List the nodes that you may log in to; with K=V, those with all these labels.

    If a key is repeated, any of its values fits: env=prod env=test. Values may have * and ?.
    """
    _list(labels, search, form, where)


@click.command(name="ls")
@click.argument("labels", nargs=-1, metavar="[K=V ...]")
@_search
@click.option("--tracing", is_flag=True, help="Show what each node can trace of sessions.")
@click.option(
    "--rotation",
    is_flag=True,
    help="Show which keys of the CAs each member has, when its certificates end, and its clock.",
)
@format_option("names", "ansible")
@where_options(local=True)
def nodes_ls(
    labels: tuple[str, ...],
    search: tuple[str, ...],
    rotation: bool,
    tracing: bool,
    form: str,
    where: Where,
) -> None:
    """List the nodes that you may log in to; with K=V, those with all these labels.

    If a key is repeated, any of its values fits: env=prod env=test. Values may have * and ?.
    """
    if tracing and rotation:
        raise click.UsageError("--tracing and --rotation show different things: give one")
    if not rotation:
        _list(labels, search, form, where, _TRACING if tracing else _COLUMNS)
        return
    from tele.cli.rotation import show_hosts

    if labels or search or form == "ansible":
        raise click.UsageError("--rotation is about all members: leave labels and ansible out")
    show_hosts(form, where)


def _list(
    labels: tuple[str, ...],
    search: tuple[str, ...],
    form: str,
    where: Where,
    columns: Sequence[Column] = _COLUMNS,
) -> None:
    if not all(word.strip() for word in search):
        raise InvalidInput("--search is empty: give a word, or leave it out")
    for label in labels:
        if not label.partition("=")[1]:
            raise InvalidInput(f"{quoted(label)} is not a label such as env=prod")
    if form == "ansible" and where.config is not None:
        raise InvalidInput(
            "--format ansible needs a login, whose ssh configuration it uses: leave --config out"
        )
    names: list[str] = []

    def noted(found: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        for some in found:
            names.extend(host.name for host in some)
            yield some

    with open_authority(where) as authority:
        found: Iterator[Sequence[Any]] = noted(node_pages(authority, labels))
        if search:
            found = ([host for host in some if is_found(host, search)] for some in found)
        if form == "ansible":
            from tele.cli.inventory import inventory

            home, profile = current(where)
            configuration = str(home.files(profile).ssh_config)
            hosts = [host for some in found for host in some]
            show_data("json", inventory(plain(hosts), profile.cluster, configuration))
        else:
            show_pages(form, found, columns)
    if not labels and where.config is None:  # a search has seen all of them, too
        remember(names, where)


def labelled_node(selector: str, where: Where) -> str:
    """Return the id of the one node that ``selector`` (``env=prod,role=db``) fits.

    If a key is repeated, any of its values fits. Of several nodes the only one that is online is
    returned. Raises :class:`NotFound` or :class:`InvalidInput`.
    """
    labels = tuple(selector.split(","))
    if not all(key and equals for key, equals, _ in (each.partition("=") for each in labels)):
        raise InvalidInput(f"{quoted(selector)} is not a selector: expected key=value,key=value")
    hosts = all_nodes(where, labels)
    if not hosts:
        raise NotFound(f"no such node: none has {selector}; tele ls shows the nodes")
    online = [host for host in hosts if host.status == "online"]
    candidates = online if len(online) == 1 else hosts
    if len(candidates) > 1:
        names = ", ".join(f"{host.name} ({host.id})" for host in candidates[:SHOWN])
        more = f" and {len(candidates) - SHOWN} more" if len(candidates) > SHOWN else ""
        raise InvalidInput(f"{len(candidates)} nodes have {selector}; give one of: {names}{more}")
    node_id: str = candidates[0].id
    if not is_name(node_id):  # it becomes an argument of ssh
        raise TeleError(f"auth answered with {quoted(node_id)}, which is not a node id")
    return node_id


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": Lazy("tele.cli.nodes:nodes_ls", "List the nodes that you may log in to."),
        "add": Lazy("tele.cli.sshd_nodes:add", "Register a machine that runs OpenSSH's sshd."),
        "keys": Lazy(
            "tele.cli.plain_keys:keys", "Print host keys for clients without host certificates."
        ),
        "rm": Lazy("tele.cli.nodes:rm", "Remove a node from the cluster."),
    },
)
def nodes() -> None:
    """Manage nodes."""


@click.command()
@click.argument("name", shell_complete=complete_node)
@where_options(local=True)
def rm(name: str, where: Where) -> None:
    """Remove the node with this name or id from the cluster.

    Its connections end and its certificates are revoked. To join again it needs a token, and gets
    a new id. Nodes that have been offline for long are not listed, but can be removed. What
    tele nodes add registered is removed in the same way.
    """
    remove_node(name, where)


def remove_node(name: str, where: Where) -> None:
    """Remove a node from the cluster."""
    from tele.model.api.hosts import DELETE_HOST
    from tele.model.api.paging import ById

    with open_authority(where) as authority:
        authority.perform(DELETE_HOST, ById(node_id(authority, name)))


def node_id(authority: Authority, name: str) -> str:
    """Return the id of the one node with this name or id; auth also knows nodes not listed."""
    hosts = (host for some in node_pages(authority) for host in plain(list(some)))
    found = [host for host in hosts if name in (host["name"], host["id"])]
    if len(found) > 1:
        ids = " ".join(h["id"] for h in found)
        raise InvalidInput(f"several nodes have the name {quoted(name)}; give one of the ids {ids}")
    return str(found[0]["id"]) if found else name
