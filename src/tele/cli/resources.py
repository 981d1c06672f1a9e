"""``tele get``, ``apply`` and ``rm``: resources in YAML (kind, version, metadata, spec)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

_PLURALS = {
    "users": "user", "roles": "role", "nodes": "node", "tokens": "token", "locks": "lock"
}  # fmt: skip


class _Kind(NamedTuple):
    """The operations on one kind of resource; each takes auth and a name or a value."""

    all: Callable[[Authority], Iterator[Sequence[Any]]]
    one: Callable[[Authority, str], Any] | None
    put: Callable[[Authority, Any], Any] | None
    remove: Callable[[Authority, str], Any]


def _user(force: bool) -> _Kind:
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

    return _Kind(
        lambda a: pages(lambda n, size: a.perform(LIST_USERS, Paged(size, n))),
        lambda a, name: a.perform(GET_USER, ByName(name)),
        lambda a, resource: a.perform(
            PUT_USER, PutUser(_name(resource), from_json(User, resource), force)
        ),
        lambda a, name: a.perform(DELETE_USER, DeleteUser(name, force)),
    )


def _role(force: bool) -> _Kind:
    from tele.model.api.paging import ByName, Paged
    from tele.model.api.roles import DELETE_ROLE, GET_ROLE, LIST_ROLES, PUT_ROLE, PutRole
    from tele.model.codec import from_json
    from tele.model.resources import Role

    return _Kind(
        lambda a: pages(lambda n, size: a.perform(LIST_ROLES, Paged(size, n))),
        lambda a, name: a.perform(GET_ROLE, ByName(name)),
        lambda a, resource: a.perform(
            PUT_ROLE, PutRole(_name(resource), from_json(Role, resource), force)
        ),
        lambda a, name: a.perform(DELETE_ROLE, ByName(name)),
    )


def _lock(force: bool) -> _Kind:
    from tele.model.api.locks import DELETE_LOCK, GET_LOCK, LIST_LOCKS, PUT_LOCK, PutLock
    from tele.model.api.paging import ByName, Paged
    from tele.model.codec import from_json
    from tele.model.resources import Lock

    return _Kind(
        lambda a: pages(lambda n, size: a.perform(LIST_LOCKS, Paged(size, n))),
        lambda a, name: a.perform(GET_LOCK, ByName(name)),
        lambda a, resource: a.perform(
            PUT_LOCK, PutLock(_name(resource), from_json(Lock, resource), force)
        ),
        lambda a, name: a.perform(DELETE_LOCK, ByName(name)),
    )


def _node(_: bool) -> _Kind:
    from tele.model.api.hosts import DELETE_HOST, LIST_HOSTS, ListHosts
    from tele.model.api.paging import ById
    from tele.model.identity import HostRole

    return _Kind(
        lambda a: pages(
            lambda n, size: a.perform(LIST_HOSTS, ListHosts(HostRole.NODE, (), size, n))
        ),
        None,
        None,
        lambda a, name: a.perform(DELETE_HOST, ById(name)),
    )


def _token(_: bool) -> _Kind:
    from tele.model.api.paging import ById, Paged
    from tele.model.api.tokens import DELETE_TOKEN, LIST_TOKENS

    return _Kind(
        lambda a: pages(lambda n, size: a.perform(LIST_TOKENS, Paged(size, n))),
        None,
        None,
        lambda a, name: a.perform(DELETE_TOKEN, ById(name)),
    )


#: Each imports only what its kind needs.
_KINDS: Mapping[str, Callable[[bool], _Kind]] = {
    "user": _user, "role": _role, "lock": _lock, "node": _node, "token": _token
}  # fmt: skip


def _kind(text: str, force: bool = False) -> _Kind:
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


def _own_name(item: dict[str, Any]) -> str:
    metadata = item.get("metadata")
    name = metadata["name"] if isinstance(metadata, dict) else item.get("name", item.get("id"))
    return str(name)


_force = click.option("--force", is_flag=True, help="Even if this leaves no administrator.")


@click.command()
@click.argument("what", metavar="KIND[/NAME]")
@format_option("names")
@where_options(local=True)
def get(what: str, form: str, where: Where) -> None:
    """Print resources: users, roles, locks, nodes or tokens, or the one with this name.

    The default format is YAML, as tele apply reads it.
    """
    text, slash, name = what.partition("/")
    kind = _kind(text)
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
            print_text(one_word(_own_name(item)))
    elif form == "text":
        for number, item in enumerate(items):
            if number:
                print_text("---")
            show_data("yaml", item)
    elif one:
        show_data(form, next(items))
    else:
        show_items(form, items)


@click.command()
@click.option(
    "-f",
    "--file",
    "file",
    type=click.Path(path_type=Path, allow_dash=True),
    required=True,
    help="A YAML file with one or more documents; - is standard input.",
)
@_force
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
    documents = []
    read = read_documents(text, name)
    if not read:
        raise InvalidInput(f"{name}: no documents")
    for document in read:
        resource = document.plain
        if not isinstance(resource, dict) or not isinstance(resource.get("kind"), str):
            raise InvalidInput(f"{document.place}: expected a resource: kind, metadata, spec")
        kind = _kind(resource["kind"], force)
        if kind.put is None:
            raise InvalidInput(f"{document.place}: a {resource['kind']} cannot be applied")
        documents.append((document.place, resource, kind.put))
    with open_authority(where) as authority:
        for place, resource, put in documents:
            try:
                put(authority, resource)
            except InvalidInput as error:
                raise InvalidInput(f"{place}: {error}") from None
            print_notice(f"{resource['kind']}/{_own_name(resource)} applied")


@click.command()
@click.argument("what", metavar="KIND/NAME")
@_force
@where_options(local=True)
def rm(what: str, force: bool, where: Where) -> None:
    """Remove a resource: a user, role or lock by name, a node by name or id, a token by id."""
    text, slash, name = what.partition("/")
    kind = _kind(text, force)
    if not slash or not name:
        raise InvalidInput(f"{quoted(what)} is not KIND/NAME")
    if text in ("node", "nodes"):
        from tele.cli.nodes import remove_node

        remove_node(name, where)
        return
    with open_authority(where) as authority:
        kind.remove(authority, name)
