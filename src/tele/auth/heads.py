"""How is the head of the audit published, so that the owner of the store cannot rewrite it?

Every minute auth signs the head with its own SSH host key, if it has moved. Hosts get it with the
answer to their announcements and keep it (:mod:`tele.membership.heads`); once an hour it is put
into the archive, under the reserved ids ``audit-heads-<year>-<month>``.

Invariants:

* What was published is in other hands: who writes to the store cannot take it back.
* The archive has at most one head an hour of each auth, for :data:`MONTHS` months.
* A failure is logged once and tried again; it stops neither auth nor the audit.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.audit.heads import HeadSigner
from tele.audit.log import AuditLog
from tele.errors import Conflict, InvalidInput, TeleError
from tele.interfaces import IArchive
from tele.log import make_logger
from tele.loop import now
from tele.model.api.audit import HeadList, ListHeads
from tele.model.audit_head import SignedHead
from tele.model.codec import decode, encode

log = make_logger(__name__)

SIGN_SECONDS: Final = 60.0
ARCHIVE_SECONDS: Final = 3600.0
#: Months whose heads are in the archive, beside the present one.
MONTHS: Final = 24
#: Heads that are read for one page.
PAGE: Final = 100
RESERVED: Final = "audit-heads-"
_NAME: Final = re.compile(r"[0-9]{16}-[0-9a-f]{16}-[0-9a-f]{8}\.head", re.ASCII)
_CURSOR: Final = re.compile(r"([0-9]{4})-([0-9]{2})/([0-9a-f.head-]{0,64})", re.ASCII)


class HeadPublisher:
    """Signs the head of ``audit``, and puts it into ``archive``.

    ``signer`` is set when auth has a certificate, and again when it is renewed. ``host_id`` is that
    of this auth.
    """

    def __init__(
        self,
        audit: AuditLog,
        archive: IArchive,
        clock: IReactorTime,
        cluster: str,
        host_id: str,
    ) -> None:
        self._audit = audit
        self._archive = archive
        self._clock = clock
        self._cluster = cluster
        self._host_id = host_id
        self.signer: HeadSigner | None = None
        #: The last head that was signed.
        self.latest: SignedHead | None = None
        self._archived: tuple[int, float] | None = None
        self._timer: IDelayedCall | None = None
        self._signing: Deferred[None] | None = None
        self._putting: Deferred[None] | None = None
        self._stopped = False
        #: Which of the two failed the last time.
        self._failing: set[object] = set()

    def start(self) -> None:
        """Sign now, and every minute."""
        self._run()

    async def stop(self) -> None:
        """Sign no more; returns when what runs has ended."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._putting is not None:
            self._putting.cancel()  # an archive that hangs delays no stop
        if self._signing is not None:
            waiting: Deferred[None] = Deferred()
            self._signing.addBoth(lambda _: waiting.callback(None))
            await waiting

    def _run(self) -> None:
        self._timer = None
        signing = self._signing = Deferred.fromCoroutine(self._attempt(self._sign))

        def signed(_: object) -> None:
            self._signing = None
            if self._stopped:
                return
            self._timer = self._clock.callLater(SIGN_SECONDS, self._run)
            if self._putting is None:  # a slow archive delays no signature
                self._begin_putting()

        signing.addBoth(signed)

    def _begin_putting(self) -> None:
        putting = self._putting = Deferred.fromCoroutine(self._attempt(self._put))

        def put(_: object) -> None:
            self._putting = None

        putting.addBoth(put)

    async def _attempt(self, what: Callable[[], Awaitable[None]]) -> None:
        """Do one of the two; a failure is logged once for both, and tried again."""
        try:
            await what()
        except CancelledError:
            return
        except Exception as error:
            if what not in self._failing:
                log.warn("head of the audit not published, trying again", error=str(error))
            self._failing.add(what)
        else:
            if what in self._failing:
                log.info("head of the audit published again")
            self._failing.discard(what)

    async def _sign(self) -> None:
        """Sign the head, if it has moved."""
        last = await self._audit.head()
        before = self.latest
        if self.signer is None or not last.number:
            return
        if before is not None and (before.number, before.hash) == (last.number, last.hash):
            return
        moment = now(self._clock)
        self.latest = self.signer.sign(
            SignedHead(self._cluster, last.number, last.hash, moment, "")
        )

    async def _put(self) -> None:
        """Put the head into the archive, if none was put for an hour."""
        head, archived = self.latest, self._archived
        if head is None or (archived is not None and archived[0] == head.number):
            return
        if archived is not None and self._clock.seconds() - archived[1] < ARCHIVE_SECONDS:
            return
        name = f"{head.number:016d}-{head.hash[:16]}-{self._host_id[:8]}.head"
        try:
            await self._archive.put(_folder(_month(head.time)), name, encode(head))
        except Conflict:
            log.debug("this head of the audit is in the archive already", number=head.number)
        self._archived = head.number, self._clock.seconds()
        # One that is not there is removed without effect: this needs no note of what was done.
        await self._archive.remove(_folder(_month(head.time) - MONTHS - 1))

    async def list(self, request: ListHeads) -> HeadList:
        """Return a page of the heads in the archive. Raises :class:`InvalidInput`."""
        present = _month(now(self._clock))
        month, after = present - MONTHS, ""
        if request.after:
            found = _CURSOR.fullmatch(request.after)
            if found is None or not 1 <= int(found[2]) <= 12:
                raise InvalidInput("after has to be the next of the page before")
            month, after = int(found[1]) * 12 + int(found[2]) - 1, found[3]
        if not present - MONTHS - 1 <= month <= present + 1:
            return HeadList(())
        stored = await self._archive.names(_folder(month))
        names = [name for name, _ in stored if _NAME.fullmatch(name) and name > after]
        heads = tuple(await self._read(month, names[:PAGE]))
        if len(names) > PAGE:
            return HeadList(heads, f"{_text(month)}/{names[PAGE - 1]}")
        following = f"{_text(month + 1)}/" if month <= present else ""
        return HeadList(heads, following)

    async def _read(self, month: int, names: Sequence[str]) -> Sequence[SignedHead]:
        """Read heads; one that cannot be read is left out, and logged."""
        heads = []
        for name in names:
            try:
                heads.append(decode(SignedHead, await self._archive.get(_folder(month), name)))
            except TeleError as error:
                log.error("cannot read a head of the audit", name=name, error=str(error))
        return heads


def _month(moment: datetime) -> int:
    return moment.year * 12 + moment.month - 1


def _text(month: int) -> str:
    return f"{month // 12:04d}-{month % 12 + 1:02d}"


def _folder(month: int) -> str:
    return RESERVED + _text(month)
