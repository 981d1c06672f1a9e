"""``tele status``: show the current login."""

from __future__ import annotations

import time

import click

from tele.cli.auth_client import Where, valid_profile, warn_clock_behind, where_options
from tele.cli.home import Home
from tele.cli.output import ROUNDING, format_option, print_text, show_data, span
from tele.text import printable

#: How long nodes and proxies use cached state when auth is down, in seconds: the time left of their
#: certificates, which they renew at two thirds of a day (a test checks it).
ALONE_AT_LEAST = 8 * 3600
ALONE_AT_MOST = 24 * 3600


@click.command()
@click.option(
    "--tracing", is_flag=True, help="Ask auth which nodes cannot trace sessions, and why."
)
@format_option()
@where_options()
def status(tracing: bool, form: str, where: Where) -> None:
    """Show your login, and how long it is valid."""
    home = Home.find()
    profile, summary = valid_profile(home, where.cluster, where.proxy, where.user)
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(summary.expires))
    fields = {
        "cluster": profile.cluster,
        "proxy": profile.proxy,
        "user": summary.user,
        "roles": list(summary.roles),
        "logins": list(summary.logins),
        "expires": expires,
        "ca_pins": list(profile.ca_pins),
        "without_auth": {"at_least": ALONE_AT_LEAST, "at_most": ALONE_AT_MOST},
    }
    lines: list[str] = []
    if tracing:
        from tele.cli.node_lists import all_nodes
        from tele.cli.node_tracing import described, untraced

        found = untraced(all_nodes(where))
        fields["tracing"] = found
        lines = described(found)
    if form != "text":
        show_data(form, fields)
        return
    alone = f"{ALONE_AT_LEAST // 3600}h to {ALONE_AT_MOST // 3600}h"
    left = span(summary.expires - time.time() + ROUNDING)
    for title, text in (
        ("Cluster:", f"{profile.cluster} at {profile.proxy}"),
        ("User:", summary.user),
        ("Roles:", ", ".join(summary.roles)),
        ("Logins:", ", ".join(summary.logins)),
        ("Valid:", f"{left} more, until {expires}"),
        ("CA pin:", " ".join(profile.ca_pins)),
        ("Offline:", f"if auth is down, nodes use cached state for {alone}"),
    ):
        print_text(f"{title:9}{printable(text)}")
    for title, text in zip(("Tracing:", *[""] * len(lines)), lines, strict=False):
        print_text(f"{title:9}{printable(text)}")
    warn_clock_behind(summary)
