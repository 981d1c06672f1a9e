"""``tele audit verify``: check the hash chain of the audit, on the machine of the caller.

Invariants:

* Auth is asked for events and for nothing else: that the chain is whole is found out here.
* What a chain cannot show, that it was made anew or its end cut off, is shown by a mark: number
  and hash of an event, printed at the end of each check and stored by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.output import format_option, print_text, show_data
from tele.errors import InvalidInput, TeleError

if TYPE_CHECKING:
    from tele.audit.chain import Mark, Verification

PAGE: Final = 500


@click.command()
@click.option(
    "--head",
    "heads",
    multiple=True,
    metavar="[NUMBER:]HASH",
    help="A mark of an earlier check: the audit must still have this event. Repeatable.",
)
@click.option(
    "--heads",
    "copies",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Heads that auth signed and others kept: the file audit-heads of a node or proxy, or a"
    " folder with such files, the archive among them. Repeatable.",
)
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The host authority that heads are signed by, as tele ca export --type host prints it.",
)
@click.option(
    "--after",
    metavar="NUMBER:HASH",
    help="Check this event and those after it only.",
)
@click.option(
    "--store",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Check the store itself, in this SQLite file or a copy of it, without asking auth.",
)
@format_option()
@where_options(local=True)
def verify(
    heads: tuple[str, ...],
    after: str | None,
    copies: tuple[Path, ...],
    ca: Path | None,
    store: Path | None,
    form: str,
    where: Where,
) -> None:
    """Check that no event of the audit was changed, removed, inserted or moved.

    The audit has to have each event that auth signed as its head: those in the archive, and those
    that nodes and proxies kept (--heads), which the owner of the store cannot take back. At the end
    a mark is printed: number and hash of the last event. Keep it, too, and give it with --head the
    next time. Exit status 1: the check failed; the text names the first event that differs.
    """
    from attrs import evolve

    from tele.audit.chain import read_mark
    from tele.cli.audit_heads import read_copies, signed_marks

    marks = [read_mark(text) for text in heads]
    found = read_copies(copies)
    start = None if after is None else read_mark(after)
    if start is not None and not start.number:
        raise InvalidInput("--after takes NUMBER:HASH, as tele audit verify prints it")
    if start is not None and any(0 < mark.number < start.number for mark in marks):
        raise InvalidInput("a --head is before --after: events before that are not checked")
    if store is None:
        with open_authority(where) as authority:
            signed = signed_marks(found, authority, ca, where)
            verdict = check(authority.perform, start, [*marks, *since(signed, start)])
    elif start is None:
        signed = signed_marks(found, None, ca, where)
        verdict = verified_store(store, [*marks, *signed])
    else:
        raise InvalidInput("--store checks the whole audit: leave --after out")
    if not verdict.events and not verdict.problem:
        verdict = evolve(verdict, problem="it has no event, not even that the cluster was made")
    _show(verdict, form, len(signed))


def since(marks: Sequence[Mark], start: Mark | None) -> list[Mark]:
    """Return the marks of events that are checked."""
    return [mark for mark in marks if start is None or mark.number >= start.number]


def check(
    perform: Callable[[Any, Any], Any], after: Mark | None, marks: Sequence[Mark]
) -> Verification:
    """Walk the audit by the API, from the beginning or the event ``after``, and check it."""
    from tele.audit.chain import Chain, Mark
    from tele.model.api.audit import AUDIT_HEAD, LIST_EVENTS, ListEvents
    from tele.model.api.operation import Nothing

    head = perform(AUDIT_HEAD, Nothing())
    last = Mark(head.number, head.hash)
    chain = Chain(after, marks)
    cursor = str(after.number - 1) if after is not None else ""
    awaited = after
    while chain.number < last.number or awaited is not None:
        page = perform(LIST_EVENTS, ListEvents(limit=PAGE, after=cursor))
        for event in page.items:
            if awaited is not None:
                if not chain.begin(event):
                    return chain.end()
                awaited = None
            elif chain.number == last.number or not chain.take(event):
                break  # a later event than the head, or an error
        if chain.problem or not page.next or not page.items:
            break
        cursor = page.next
    if awaited is not None:
        chain.not_begun(f"the event {after} is not there: the end was cut off, or all made anew")
        return chain.end()
    if (
        not chain.problem
        and perform(LIST_EVENTS, ListEvents(limit=1, after=str(last.number))).items
    ):
        again = perform(AUDIT_HEAD, Nothing())
        chain.has_more(last, Mark(again.number, again.hash))
    return chain.end(last)


def verified_store(path: Path, marks: Sequence[Mark] = ()) -> Verification:
    """Check the audit in the SQLite file ``path``; raises :class:`TeleError` if it is none."""
    from twisted.internet.defer import Deferred

    from tele.audit.reading import verify as verify_store
    from tele.store.reading import StoreFile

    with StoreFile(path) as store:
        found: list[Verification] = []
        errors: list[Any] = []
        checking = Deferred.fromCoroutine(verify_store(store, marks))
        checking.addCallbacks(found.append, errors.append)
        if errors:
            errors[0].raiseException()
        return found[0]


def _show(verdict: Verification, form: str, heads: int) -> None:
    from tele.audit.chain import Mark

    mark = str(Mark(verdict.events, verdict.head)) if verdict.events else ""
    if form != "text":
        show_data(form, {"ok": not verdict.problem, "events": verdict.events, "head": mark,
                         "signed_heads": heads, "problem": verdict.problem,
                         "event": verdict.event})  # fmt: skip
    if verdict.problem:
        where = f" (id {verdict.event})" if verdict.event else ""
        raise TeleError(
            f"the audit is not whole: {verdict.problem}{where}\n"
            f"the last good event is {mark or 'none'}"
        )
    if form == "text":
        agree = f", and as auth signed them {heads} times" if heads else ""
        print_text(f"ok: events up to {verdict.events} are whole{agree}")
        print_text(f"head: {mark}")
