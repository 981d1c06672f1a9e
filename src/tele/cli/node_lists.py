"""Lists of nodes from auth, for commands and for completion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tele.cli.auth_client import Authority, Where, open_authority
from tele.cli.lists import pages


def node_pages(authority: Authority, labels: tuple[str, ...] = ()) -> Iterator[Sequence[Any]]:
    """Yield the nodes that the user may log in to, with all of ``labels``, page by page."""
    from tele.model.api.hosts import LIST_HOSTS, ListHosts
    from tele.model.identity import HostRole

    return pages(
        lambda after, size: authority.perform(
            LIST_HOSTS, ListHosts(HostRole.NODE, labels, size, after)
        )
    )


def is_found(host: Any, words: Sequence[str]) -> bool:
    """Whether a node has each of ``words`` in its name, id, addresses or labels, in any case."""
    labels = (f"{key}={value}" for key, value in host.labels.items())
    text = "\n".join((host.name, host.id, *host.addresses, *labels)).lower()
    return all(word.lower() in text for word in words)


def all_nodes(where: Where, labels: tuple[str, ...] = ()) -> list[Any]:
    """Return the nodes that the user may log in to, with all of ``labels``, by name."""
    with open_authority(where) as authority:
        return [host for some in node_pages(authority, labels) for host in some]
