"""Which sessions run, and who may see them?

Invariants:

* A node reports its own sessions only.
* A user sees their own sessions; other users' sessions need a rule, and so do those of an earlier
  user of the same name.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice
from operator import attrgetter

from attrs import evolve

from tele.auth import quotas
from tele.auth.authorizer import Authorizer, host_caller
from tele.auth.connection_claims import ConnectionClaims
from tele.auth.handlers import Handler, handler
from tele.auth.host_quotas import HostQuotas
from tele.auth.live_sessions import LiveSessions
from tele.auth.members import Members
from tele.auth.presence import Hosts
from tele.auth.recording_claims import is_id
from tele.auth.recording_search import received_at
from tele.auth.running_sessions import Running
from tele.auth.session_ends import SessionEnds
from tele.auth.users import Users
from tele.certs.check import LATEST
from tele.errors import InvalidInput, NotFound, quoted
from tele.model.api import sessions as api
from tele.model.api import table
from tele.model.api.operation import Nothing
from tele.model.api.paging import ById, Paged
from tele.model.identity import Caller, UserIdentity
from tele.model.session import Session, SessionStatus


class SessionOperations:
    """Operations on sessions that run."""

    def __init__(
        self,
        live: LiveSessions,
        hosts: Hosts,
        members: Members,
        ends: SessionEnds,
        quotas: HostQuotas,
        authorizer: Authorizer,
        users: Users,
        claims: ConnectionClaims,
    ) -> None:
        self._users = users
        self._claims = claims
        self._live = live
        self._hosts = hosts
        self._members = members
        self._ends = ends
        self._quotas = quotas
        self._authorizer = authorizer

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (
            handler(table.REPORT_SESSIONS, self.report_sessions),
            handler(table.CLAIM_CONNECTION, self.claim_connection),
            handler(table.LIST_SESSIONS, self.list_sessions),
            handler(table.GET_SESSION, self.get_session),
        )

    async def report_sessions(self, request: api.ReportSessions, caller: Caller) -> Nothing:
        """Take the calling node's report of the sessions that run on it."""
        host = host_caller(caller)
        await self._quotas.charge(caller, quotas.REPORTS, 1)
        if len(request.sessions) > api.REPORT_LIMIT:
            raise InvalidInput(f"more than {api.REPORT_LIMIT:,} sessions in one report")
        await self._members.require(host)
        # The events that a report causes are charged to its node: ending and resuming sessions in
        # turns fills the audit no faster than reporting events does.
        await self._ends.report(
            host, request, lambda count: self._quotas.charge(caller, quotas.EVENTS, count)
        )
        return Nothing()

    async def claim_connection(self, request: api.ClaimConnection, caller: Caller) -> Nothing:
        """Count a session that is about to begin on the calling host."""
        host = host_caller(caller)
        if not is_id(request.id):
            raise InvalidInput(f"{quoted(request.id)} is not the id of a session")
        await self._quotas.charge(caller, quotas.EVENTS, 1)
        await self._members.require(host)
        user = await self._users.user(request.user)
        identity = UserIdentity(
            request.user, host.cluster, LATEST, user.spec.roles, traits=user.spec.traits,
            issued=LATEST,
        )  # fmt: skip
        await self._claims.claim(host.place, identity, request.id, request.limit)
        return Nothing()

    async def list_sessions(self, request: Paged, caller: Caller) -> api.SessionList:
        """Return a page of sessions that have not ended, oldest first."""
        running = await self._visible(caller)
        begin = bisect_right(running, request.after, key=attrgetter("mark"))
        page: list[Running] = []
        for each in islice(running, begin, None):
            if len(page) == request.limit:
                return api.SessionList(self._with_status(page), page[-1].mark)
            page.append(each)
        return api.SessionList(self._with_status(page))

    async def get_session(self, request: ById, caller: Caller) -> api.SessionDetails:
        """Return what is known of one session that has not ended."""
        live = self._live
        for each in await self._visible(caller):
            session = each.session
            if session.id == request.id:
                return api.SessionDetails(
                    self._status_of(session),
                    "ssh",
                    await live.roles_of(session),
                    await live.is_recorded(session),
                    (api.Participant(session.user, session.remote_addr, session.started),),
                )
        raise NotFound(
            f"no such session runs: {quoted(request.id)}; tele sessions ls shows those that do"
        )

    async def _visible(self, caller: Caller) -> list[Running]:
        """Return the sessions that the caller may see, oldest first."""
        user = await self._authorizer.visible_user(caller, "session", "list")
        if user is None:
            return await self._live.all()
        since = await self._authorizer.since(caller)
        judge = await self._authorizer.judge_if_any(caller, "session", "list")
        running = await (self._live.of_user(user) if judge is None else self._live.all())
        return [
            each
            for each in running
            if (each.session.user == user and received_at(each.session) >= since)
            or (judge is not None and judge(each.session) is None)
        ]

    def _with_status(self, page: list[Running]) -> tuple[Session, ...]:
        """Return the sessions; the status of those on offline nodes is unknown."""
        return tuple(self._status_of(each.session) for each in page)

    def _status_of(self, session: Session) -> Session:
        if self._hosts.is_online(*session.recorded_by):
            return session
        seen = self._hosts.last_seen(*session.recorded_by)
        return evolve(session, status=SessionStatus.UNKNOWN, node_seen=seen)
