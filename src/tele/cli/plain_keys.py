"""``tele nodes keys``: host keys for clients that know no host certificates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.node_names import complete_node
from tele.cli.output import format_option, plain, print_notice, print_text, show_data


@click.command()
@click.argument("node", shell_complete=complete_node)
@click.option(
    "--replace",
    "replaced",
    metavar="PROXY",
    help="Give this proxy (name or id) another key for the node, and print no keys.",
)
@click.option("--reason", default="", metavar="TEXT", help="Why, with --replace: for the audit.")
@format_option()
@where_options(local=True)
def keys(node: str, replaced: str | None, reason: str, form: str, where: Where) -> None:
    """Print the host keys with which proxies that record answer for a node.

    They are lines for the known_hosts of clients that know no host certificates (paramiko, libssh,
    libssh2), one for each proxy. Such clients log in if session_recording.proxy_plain_keys of the
    cluster is true.
    """
    if replaced is None:
        if reason:
            raise click.UsageError("--reason belongs to --replace")
        _show(node, form, where)
        return
    if not reason:
        raise click.UsageError("--replace needs --reason TEXT; it is in the audit")
    from tele.model.api.plain_keys import REPLACE_PLAIN_KEY, ReplacePlainKey

    with open_authority(where) as authority:
        authority.perform(REPLACE_PLAIN_KEY, ReplacePlainKey(node, replaced, reason))
    print_notice(
        f"proxy {replaced} has another key for {node}; clients that have the old one in known_hosts"
        " refuse to connect until it is replaced there, too"
    )


def _show(node: str, form: str, where: Where) -> None:
    from tele.model.api.plain_keys import LIST_PLAIN_KEYS, ListPlainKeys

    with open_authority(where) as authority:
        found = plain(authority.perform(LIST_PLAIN_KEYS, ListPlainKeys(node)))
    if form != "text":
        show_data(form, found)
        return
    for key in found["keys"]:
        print_text(known_hosts_line(found["names"], key))
    if not found["keys"]:
        print_notice("the cluster has no proxy")


def known_hosts_line(names: list[str], key: Mapping[str, Any]) -> str:
    """Return the line of a key, with the name of its proxy as the comment."""
    kind, blob = key["key"].split()[:2]
    return f"{','.join(names)} {kind} {blob} {key['proxy']}"
