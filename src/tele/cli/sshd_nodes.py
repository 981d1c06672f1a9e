"""``tele nodes add``: machines that run OpenSSH's sshd."""

from __future__ import annotations

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.lists import split_pairs, split_words
from tele.cli.output import format_option, plain, print_notice, show_data


@click.command()
@click.argument("name")
@click.option(
    "--address",
    required=True,
    metavar="HOST[:PORT]",
    help="Where proxies reach its sshd; port 22 if there is none.",
)
@click.option("--labels", "--label", "labels", multiple=True, metavar="K=V", help="Its labels.")
@click.option(
    "--principals",
    "--principal",
    "names",
    multiple=True,
    metavar="NAME",
    help="Further names in its host certificate, beside NAME.",
)
@click.option("--replace", is_flag=True, help="Change one that is registered; it keeps its id.")
@format_option()
@where_options(local=True)
def add(
    name: str,
    address: str,
    labels: tuple[str, ...],
    names: tuple[str, ...],
    replace: bool,
    form: str,
    where: Where,
) -> None:
    """Register a machine that runs OpenSSH's sshd, so that roles apply to it by its labels.

    Proxies connect users to it and record their sessions, unless session_recording.mode of the
    cluster is off.
    """
    from tele.model.api.hosts import ADD_HOST, AddHost

    request = AddHost(name, address, split_pairs(labels), split_words(names), replace)
    with open_authority(where) as authority:
        host = plain(authority.perform(ADD_HOST, request))
    if form == "text":
        print_notice(f"node {host['name']} registered at {host['addresses'][0]}")
    else:
        show_data(form, host)
