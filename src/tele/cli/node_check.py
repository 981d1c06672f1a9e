"""``tele node check``: what a node on this machine can do, and what it lacks."""

from __future__ import annotations

from pathlib import Path

import click

from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.output import format_option, plain, print_text, show_data
from tele.errors import InvalidInput
from tele.node.machine_checks import Check, Outcome, Wanted, check_machine

#: What services of this machine read.
CONFIG = Path("/etc/tele/tele.yaml")


@click.group(
    cls=LazyGroup,
    lazy={
        "check": Lazy("tele.cli.node_check:check", "Check what a node on this machine can do."),
    },
)
def node() -> None:
    """Look at this machine as a node."""


@click.command()
@click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The configuration of the node.  [default: {CONFIG}, if there is one]",
)
@format_option()
def check(file: Path | None, form: str) -> int:
    """Check what a node on this machine can do, what is missing, and how to get it.

    With a configuration, also whether the machine has what it asks for: its ports, and the
    addresses that it connects to. Nothing is changed, and nothing has to run. Run it as the account
    that the node runs as, which is root for all but tests.

    The exit status is 1 if something fails that is configured. What is limited is optional.
    """
    if file is None and CONFIG.exists():
        file = CONFIG
    found = check_machine(Wanted() if file is None else _wanted(file))
    if form == "text":
        for each in found:
            _show(each)
    else:
        show_data(form, plain(found))
    return int(any(each.outcome is Outcome.FAILED for each in found))


def _show(found: Check) -> None:
    print_text(f"{found.outcome.value:8}{found.name}: {found.found}")
    if found.advice:
        print_text(f"{'':8}{found.advice}")


def _wanted(file: Path) -> Wanted:
    """Return what the node of a configuration needs of its machine."""
    from tele.config.values import Address
    from tele.embed.plugins import load_config

    config = load_config(file).config
    if config.node is None:
        raise InvalidInput(f"{file}: there is no section node: give the file of a node")
    node, join = config.node, config.node.join
    tunnelled = join is not None and join.proxy is not None
    listen = node.listen or (None if tunnelled else Address("0.0.0.0", 3022))  # noqa: S104
    dials: list[tuple[str, Address]] = []
    if join is not None and join.via is None:  # an egress proxy is for the node to get past
        dials = [("auth", address) for address in join.auth]
        dials += [("proxy", address) for address in (join.proxy,) if address is not None]
    return Wanted(
        pam=node.pam,
        kill_leftovers=node.kill_leftovers,
        accounts=node.host_users.accounts is not None,
        sudoers=node.host_users.sudoers,
        listen=listen,
        dials=tuple(dials),
        data_dir=config.data_dir,
    )
