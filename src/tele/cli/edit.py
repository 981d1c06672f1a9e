"""``tele edit``: a resource in the user's editor.

Invariants:

* What was changed meanwhile is not overwritten: the text that is edited has the revision.
* No text of the user is lost: what cannot be applied is kept in a file of mode 0600.
"""

from __future__ import annotations

import tempfile
from typing import Any

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.output import plain, print_notice, yaml_of
from tele.cli.resources import Applicable, force_option, kind_of, own_name
from tele.errors import InvalidInput, TeleError, quoted


@click.command()
@click.argument("what", metavar="KIND[/NAME]")
@force_option
@where_options(local=True)
def edit(what: str, force: bool, where: Where) -> None:
    """Change a user, a role, a lock or the cluster in your editor ($VISUAL, $EDITOR, or vi).

    A resource that was changed meanwhile is not overwritten. What could not be applied is kept in a
    file, which the error names.
    """
    text, slash, name = what.partition("/")
    kind = kind_of(text)
    if kind.put is None or kind.one is None:
        raise InvalidInput(f"a {text} cannot be edited")
    if not name and (slash or text != "cluster"):
        raise InvalidInput(f"{quoted(what)} is not KIND/NAME")
    with open_authority(where) as authority:
        before = plain(kind.one(authority, name))
    shown = yaml_of(before)
    after = click.edit(shown, extension=".yaml")
    if after is None or after == shown:
        print_notice("nothing changed")
        return
    try:
        edited = _read(after, what, before, force)
        with open_authority(where) as authority:
            edited.apply(authority)
    except TeleError as error:
        print_notice(f"your text is in {_keep(after)}")
        raise error from None


def _read(text: str, what: str, before: Any, force: bool) -> Applicable:
    """Return the one document in ``text``, which is still the resource ``before``."""
    from tele.config.document import read_documents

    documents = [Applicable.of(each, force) for each in read_documents(text, what)]
    if len(documents) != 1:
        raise InvalidInput(f"{what}: expected one document, found {len(documents)}")
    (edited,) = documents
    if edited.resource["kind"] != before["kind"] or own_name(edited.resource) != own_name(before):
        raise InvalidInput(
            f"{what}: kind and metadata.name cannot be edited; tele apply -f FILE makes another one"
        )
    return edited


def _keep(text: str) -> str:
    """Write ``text`` to a file of its own; return its path."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="tele-edit-", suffix=".yaml", encoding="utf-8", delete=False
    ) as file:
        file.write(text)
    return file.name
