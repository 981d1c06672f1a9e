"""Who am I, where, and until when?"""

from __future__ import annotations

import time

import click

from tele.cli.home import Home
from tele.cli.output import ROUNDING, format_option, print_text, show_data, span
from tele.cli.session import Where, meant, notice_behind, where_options
from tele.text import printable

#: How long nodes and proxies go on by themselves when auth is away, in seconds: what is left of
#: their own certificates, which they renew at two thirds of a day (a test holds it to that).
ALONE_AT_LEAST = 8 * 3600
ALONE_AT_MOST = 24 * 3600


@click.command()
@format_option()
@where_options()
def status(form: str, where: Where) -> None:
    """Show who you are, where, and until when."""
    home = Home.find()
    profile, facts = meant(home, where.cluster, where.proxy, where.user)
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(facts.expires))
    said = {
        "cluster": profile.cluster,
        "proxy": profile.proxy,
        "user": facts.user,
        "roles": list(facts.roles),
        "logins": list(facts.logins),
        "expires": expires,
        "ca_pins": list(profile.ca_pins),
        "without_auth": {"at_least": ALONE_AT_LEAST, "at_most": ALONE_AT_MOST},
    }
    if form != "text":
        show_data(form, said)
        return
    alone = f"{ALONE_AT_LEAST // 3600}h to {ALONE_AT_MOST // 3600}h"
    left = span(facts.expires - time.time() + ROUNDING)
    for title, text in (
        ("Cluster:", f"{profile.cluster} at {profile.proxy}"),
        ("User:", facts.user),
        ("Roles:", ", ".join(facts.roles)),
        ("Logins:", ", ".join(facts.logins)),
        ("Valid:", f"{left} more, until {expires}"),
        ("CA pin:", " ".join(profile.ca_pins)),
        ("Alone:", f"when auth is away, nodes decide by themselves for {alone}"),
    ):
        print_text(f"{title:9}{printable(text)}")
    notice_behind(facts)
