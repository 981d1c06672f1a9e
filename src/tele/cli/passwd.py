"""``tele passwd``: change your own password."""

from __future__ import annotations

from pathlib import Path

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.lists import read_password
from tele.cli.output import print_notice
from tele.errors import InvalidInput


@click.command()
@click.option(
    "--old-password-file",
    "old_file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file whose first line is the present password; - is standard input.",
)
@click.option(
    "--password-file",
    "new_file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file whose first line is the new password; - is standard input.",
)
@where_options()
def passwd(old_file: Path | None, new_file: Path | None, where: Where) -> None:
    """Change your own password. Asks for the present one and, twice, for the new one.

    Your certificates stay valid. If you do not know the present password, an administrator can
    reset it: tele users reset NAME.
    """
    from tele.model.api.users import CHANGE_PASSWORD, ChangePassword

    with open_authority(where) as authority:
        old = _ask("Present password") if old_file is None else read_password(old_file)
        new = _ask("New password", again=True) if new_file is None else read_password(new_file)
        if new == old:
            raise InvalidInput("the new password is the same as the present one")
        authority.perform(CHANGE_PASSWORD, ChangePassword(old, new))
    print_notice("password changed")


def _ask(what: str, *, again: bool = False) -> str:
    """Ask on the terminal, without echo."""
    answer: str = click.prompt(what, hide_input=True, confirmation_prompt=again, err=True)
    return answer
