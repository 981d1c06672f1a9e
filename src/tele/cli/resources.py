"""``tele get``, ``apply`` and ``rm``: resources in YAML (kind, version, metadata, spec)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from tele.cli.auth_client import Authority, Where, open_authority, where_options
from tele.cli.lists import pages
from tele.cli.output import (
    format_option,
    one_word,
    plain,
    print_notice,
    print_text,
    show_data,
    show_items,
)
from tele.errors import InvalidInput, NotFound, quoted

if TYPE_CHECKING:  # the reader of YAML takes too long to import
    from tele.config.document import Value

_PLURALS = {
    "users": "user", "roles": "role", "nodes": "node", "tokens": "token", "locks": "lock"
}  # fmt: skip


class Kind(NamedTuple):
    """The operations on one kind of resource; each takes auth and a name or a value."""

    all: Callable[[Authority], Iterator[Sequence[Any]]]
    one: Callable[[Authority, str], Any] | None
    put: Callable[[Authority, Any], Any] | None
    remove: Callable[[Authority, str], Any] | None


def _user(force: bool) -> Kind:
    from tele.model.api.paging import ByName, Paged
    from tele.model.api.users import (
        DELETE_USER,
        GET_USER,
        LIST_USERS,
        PUT_USER,
        DeleteUser,
        PutUser,
    )
    from tele.model.codec import from_json
    from tele.model.resources import User

    return Kind(
        lambda a: pages(lambda n, size: a.perform(LIST_USERS, Paged(size, n))),
        lambda a, name: a.perform(GET_USER, ByName(name)),
        lambda a, resource: a.perform(
            PUT_USER, PutUser(_name(resource), from_json(User, resource), force)
        ),
        lambda a, name: a.perform(DELETE_USER, DeleteUser(name, force)),
    )


def _role(force: bool) -> Kind:
    from tele.model.api.paging import ByName, Paged
    from tele.model.api.roles import DELETE_ROLE, GET_ROLE, LIST_ROLES, PUT_ROLE, PutRole
    from tele.model.codec import from_json
    from tele.model.resources import Role

    return Kind(
        lambda a: pages(lambda n, size: a.perform(LIST_ROLES, Paged(size, n))),
        lambda a, name: a.perform(GET_ROLE, ByName(name)),
        lambda a, resource: a.perform(
            PUT_ROLE, PutRole(_name(resource), from_json(Role, resource), force)
        ),
        lambda a, name: a.perform(DELETE_ROLE, ByName(name)),
    )


def _lock(force: bool) -> Kind:
    from tele.model.api.locks import DELETE_LOCK, GET_LOCK, LIST_LOCKS, PUT_LOCK, PutLock
    from tele.model.api.paging import ByName, Paged
    from tele.model.codec import from_json
    from tele.model.resources import Lock

    return Kind(
        lambda a: pages(lambda n, size: a.perform(LIST_LOCKS, Paged(size, n))),
        lambda a, name: a.perform(GET_LOCK, ByName(name)),
        lambda a, resource: a.perform(
            PUT_LOCK, PutLock(_name(resource), from_json(Lock, resource), force)
        ),
        lambda a, name: a.perform(DELETE_LOCK, ByName(name)),
    )


def _node(_: bool) -> Kind:
    from tele.model.api.hosts import DELETE_HOST, LIST_HOSTS, ListHosts
    from tele.model.api.paging import ById
    from tele.model.identity import HostRole

    return Kind(
        lambda a: pages(
            lambda n, size: a.perform(LIST_HOSTS, ListHosts(HostRole.NODE, (), size, n))
        ),
        None,
        None,
        lambda a, name: a.perform(DELETE_HOST, ById(name)),
    )


def _token(_: bool) -> Kind:
    from tele.model.api.paging import ById, Paged
    from tele.model.api.tokens import DELETE_TOKEN, LIST_TOKENS

    return Kind(
        lambda a: pages(lambda n, size: a.perform(LIST_TOKENS, Paged(size, n))),
        None,
        None,
        lambda a, name: a.perform(DELETE_TOKEN, ById(name)),
    )


def _cluster(_: bool) -> Kind:
    from tele.model.api.cluster import GET_CLUSTER, PUT_CLUSTER, PutCluster
    from tele.model.api.operation import Nothing
    from tele.model.codec import from_json
    from tele.model.resources import Cluster

    def one(authority: Authority, name: str) -> Any:
        cluster = authority.perform(GET_CLUSTER, Nothing())
        if name not in ("", cluster.metadata.name):
            raise NotFound(f"no such cluster: {quoted(name)}; this is {cluster.metadata.name}")
        return _complete(cluster)

    def put(authority: Authority, resource: Any) -> None:
        done = authority.perform(PUT_CLUSTER, PutCluster(from_json(Cluster, resource)))
        for warning in done.warnings:
            print_notice(f"warning: {warning}")

    return Kind(lambda a: iter([[one(a, "")]]), one, put, None)


def _complete(cluster: Any) -> Any:
    """Return the JSON form with every setting, also those that have their defaults."""
    import attrs

    from tele.model.sizes import Size

    def every(value: Any) -> Any:
        if not attrs.has(type(value)) or isinstance(value, Size):
            return plain(value)
        return {each.name: every(getattr(value, each.name)) for each in attrs.fields(type(value))}

    resource = plain(cluster)
    # What is not set leaves out the key: null is not a value of these.
    spec = every(cluster.spec)
    resource["spec"] = {name: value for name, value in spec.items() if value is not None}
    return resource


#: Each imports only what its kind needs.
_KINDS: Mapping[str, Callable[[bool], Kind]] = {
    "user": _user, "role": _role, "lock": _lock, "node": _node, "token": _token,
    "cluster": _cluster,
}  # fmt: skip


def kind_of(text: str, force: bool = False) -> Kind:
    """Return the operations on the kind ``text``. Raises :class:`InvalidInput`."""
    make = _KINDS.get(_PLURALS.get(text, text))
    if make is None:
        raise InvalidInput(
            f"unknown kind of resource {quoted(text)}; there are {', '.join(_KINDS)}"
        )
    return make(force)


def _name(resource: Any) -> str:
    metadata = resource.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str):
        raise InvalidInput("metadata.name: missing")
    return name


def own_name(item: dict[str, Any]) -> str:
    """Return the name of a resource in JSON form, or its id."""
    metadata = item.get("metadata")
    name = metadata["name"] if isinstance(metadata, dict) else item.get("name", item.get("id"))
    return str(name)


force_option = click.option("--force", is_flag=True, help="Even if this leaves no administrator.")


@click.command()
@click.argument("what", metavar="KIND[/NAME]")
@format_option("names")
@where_options(local=True)
def get(what: str, form: str, where: Where) -> None:
    """Print resources: users, roles, locks, nodes or tokens, or the one with this name.

    tele get cluster prints the settings of the cluster. The default format is YAML, as tele apply
    reads it.
    """
    text, slash, name = what.partition("/")
    kind = kind_of(text)
    if text == "cluster":  # there is one
        slash = "/"
    with open_authority(where) as authority:
        items: Iterator[Any]
        if not slash:
            items = (item for some in kind.all(authority) for item in plain(list(some)))
        elif kind.one is not None:
            items = iter([plain(kind.one(authority, name))])
        else:
            items = iter([_one_of(kind.all(authority), text, name)])
        _show(form, items, one=bool(slash))


def _one_of(pages: Iterable[Sequence[Any]], kind: str, name: str) -> Any:
    """Return the resource with this name or id, in JSON form."""
    for some in pages:
        for item in plain(list(some)):
            if name in (item.get("name"), item["id"]):
                return item
    raise NotFound(f"no such {_PLURALS.get(kind, kind)}: {quoted(name)}")


def _show(form: str, items: Iterator[Any], *, one: bool) -> None:
    if form == "names":
        for item in items:
            print_text(one_word(own_name(item)))
    elif form == "text":
        for number, item in enumerate(items):
            if number:
                print_text("---")
            show_data("yaml", item)
    elif one:
        show_data(form, next(items))
    else:
        show_items(form, items)


class Applicable(NamedTuple):
    """A document that can be applied."""

    document: Value
    resource: Any
    put: Callable[[Authority, Any], Any]

    @classmethod
    def of(cls, document: Value, force: bool) -> Applicable:
        """Return what ``document`` is. Raises :class:`InvalidInput` if it is nothing of that."""
        resource = document.plain
        if not isinstance(resource, dict) or not isinstance(resource.get("kind"), str):
            raise InvalidInput(f"{document.place}: expected a resource: kind, metadata, spec")
        kind = kind_of(resource["kind"], force)
        if kind.put is None:
            raise InvalidInput(f"{document.place}: a {resource['kind']} cannot be applied")
        return cls(document, resource, kind.put)

    def apply(self, authority: Authority) -> None:
        """Apply it, and say so."""
        try:
            self.put(authority, self.resource)
        except InvalidInput as error:
            raise InvalidInput(self.document.located(error)) from None
        print_notice(f"{self.resource['kind']}/{own_name(self.resource)} applied")


@click.command()
@click.option(
    "-f",
    "--file",
    "file",
    type=click.Path(path_type=Path, allow_dash=True),
    required=True,
    help="A YAML file with one or more documents; - is standard input.",
)
@force_option
@where_options(local=True)
def apply(file: Path, force: bool, where: Where) -> None:
    """Create or replace resources.

    All documents are checked before the first is applied. A document with metadata.revision is
    applied only if that is still the current revision.
    """
    from tele.config.document import read_documents

    name = "standard input" if str(file) == "-" else str(file)
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(f"{name} is not UTF-8") from None
    read = read_documents(text, name)
    if not read:
        raise InvalidInput(f"{name}: no documents")
    documents = [Applicable.of(document, force) for document in read]
    with open_authority(where) as authority:
        for each in documents:
            each.apply(authority)


@click.command()
@click.argument("what", metavar="KIND/NAME")
@force_option
@where_options(local=True)
def rm(what: str, force: bool, where: Where) -> None:
    """Remove a resource: a user, role or lock by name, a node by name or id, a token by id."""
    text, slash, name = what.partition("/")
    kind = kind_of(text, force)
    if not slash or not name:
        raise InvalidInput(f"{quoted(what)} is not KIND/NAME")
    if kind.remove is None:
        raise InvalidInput(f"a {text} cannot be removed")
    if text in ("node", "nodes"):
        from tele.cli.nodes import remove_node

        remove_node(name, where)
        return
    with open_authority(where) as authority:
        kind.remove(authority, name)
