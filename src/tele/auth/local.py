"""What does auth do for each operation of the API?

One method for each row of the table, named as the row is, so that the table and this file
cannot drift apart (a test compares them).

Laws of this file:

* Who may call at all was settled by kind (hosts, users, anyone) before; what a user's
  roles permit is settled here, from the roles as they are now, before anything is done.
* Every denial is an audit event, and so is every change.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele._version import VERSION
from tele.audit.chain import event
from tele.audit.log import AuditLog
from tele.auth.authorities import Authorities
from tele.auth.issuing import Issuer, is_host_name, key_blob
from tele.auth.members import Member, Members
from tele.auth.passwords import Passwords, Verdict
from tele.auth.people import People
from tele.auth.recordings import Recordings
from tele.auth.state import State
from tele.auth.tokens import Tokens
from tele.errors import AccessDenied, InvalidInput, NotLoggedIn, TeleError, quoted
from tele.https.serve import IHandler
from tele.interfaces import IAuthority
from tele.loop import make_logger, now
from tele.model.access import Reason
from tele.model.api import members, people, records
from tele.model.api.operation import Nothing, Operation, Permitted, Users
from tele.model.authority import AuthorityKind, Certificates
from tele.model.event import Event
from tele.model.identity import Caller, HostIdentity, HostRole, UserIdentity
from tele.model.presence import Presence, Status
from tele.model.resources import Metadata, Role, User, UserSpec
from tele.model.session import Recording, Session
from tele.rbac.decision import locked, may_reach, permits, refusal
from tele.rbac.labels import allows

log = make_logger(__name__)

#: The user that the administrator of auth's own machine is; no user can have this name.
LOCAL_ADMIN: Final = "@local"
ADMIN_ROLES: Final = ("access", "editor", "auditor")
ADDRESSES_LIMIT: Final = 32
EVENTS_LIMIT: Final = 1000
PAGE_LIMIT: Final = 1000


@frozen
class Collaborators:
    """The parts of auth that operations are made of."""

    cluster: str
    authorities: Authorities
    issuer: Issuer
    state: State
    members: Members
    people: People
    passwords: Passwords
    tokens: Tokens
    recordings: Recordings
    audit: AuditLog


@implementer(IHandler)
class LocalAuthority:
    """Auth itself, in this process."""

    def __init__(self, parts: Collaborators, clock: IReactorTime) -> None:
        self._parts = parts
        self._clock = clock

    # -- dispatch ---------------------------------------------------------------------
    async def handle(self, operation: Operation[Any, Any], request: Any, caller: Caller) -> Any:
        """Perform an operation for ``caller``; raises a :class:`TeleError`."""
        try:
            await self._check(operation, caller)
            return await getattr(self, f"_{operation.name}")(request, caller)
        except AccessDenied as error:
            if operation.name != "login":  # that one says more of it
                await self.denied(operation, caller, error)
            raise

    def follow(
        self,
        operation: Operation[Any, Any],
        request: Any,
        caller: Caller,
        receiver: Callable[[Any], None],
    ) -> Deferred[None]:
        """Tell ``receiver`` each value of a streaming operation; cancel to end it."""

        async def start() -> None:
            try:
                await self._check(operation, caller)
            except AccessDenied as error:
                await self.denied(operation, caller, error)
                raise
            running: Deferred[None] = getattr(self, f"_{operation.name}")(request, receiver)
            await running

        return Deferred.fromCoroutine(start())

    def as_caller(self, caller: Caller) -> IAuthority:
        """Return auth as ``caller`` sees it, with the interface of a remote one."""
        return _AsCaller(self, caller)

    async def _check(self, operation: Operation[Any, Any], caller: Caller) -> None:
        """What the kind of caller left open: a user's rules. Raises :class:`AccessDenied`."""
        identity = caller.identity
        if not isinstance(identity, UserIdentity):
            return
        roles = await self._roles_of(identity)
        stopped = locked(self._parts.state.locks.values(), identity, now(self._clock))
        if stopped is not None:
            said = stopped.spec.message or stopped.metadata.name
            raise AccessDenied(f"{identity.user} is locked: {said}", Reason.LOCKED)
        if any(isinstance(who, Users) for who in operation.who):
            return
        rules = [who for who in operation.who if isinstance(who, Permitted)]
        if not rules:
            return
        known = self._parts.state.roles
        denials = [refusal(roles, known, rule.resource, rule.verb) for rule in rules]
        if None not in denials:
            denied = denials[0]
            text = "denied" if denied is None else denied.message
            raise AccessDenied(f"denied: {text}", Reason.RULE)

    async def _roles_of(self, identity: UserIdentity) -> tuple[str, ...]:
        """The caller's roles as they are now; a user who was removed has none."""
        if identity.user == LOCAL_ADMIN:
            return identity.roles
        user = await self._parts.people.find_user(identity.user)
        if user is None:
            raise AccessDenied(f"user {identity.user} does not exist any more", Reason.NO_ROLE)
        return user.spec.roles

    async def _may(self, caller: Caller, resource: str, verb: str) -> bool:
        identity = caller.identity
        if not isinstance(identity, UserIdentity):
            return False
        held = await self._roles_of(identity)
        return permits(held, self._parts.state.roles, resource, verb)

    # -- audit ------------------------------------------------------------------------
    async def emit(self, name: str, caller: Caller | None = None, /, **fields: Any) -> None:
        """Append an event that ``caller`` caused."""
        identity = None if caller is None else caller.identity
        if isinstance(identity, UserIdentity):
            fields.setdefault("user", identity.user)
            fields.setdefault("roles", identity.roles)
            fields.setdefault("login_session", identity.login_session)
        elif isinstance(identity, HostIdentity):
            fields.setdefault("server_id", identity.host_id)
            fields.setdefault("server_name", identity.name)
        if caller is not None:
            fields.setdefault("remote_addr", caller.remote_addr)
        moment = now(self._clock)
        await self._parts.audit.append(
            event(name, str(uuid.uuid4()), moment, self._parts.cluster, **fields)
        )

    async def denied(
        self, operation: Operation[Any, Any], caller: Caller, error: TeleError
    ) -> None:
        """Say in the audit that a call was refused."""
        await self.emit(
            "auth.denied",
            caller,
            ok=False,
            error=str(error)[:512],
            operation=operation.name,
            reason=str(getattr(error, "reason", error.kind)),
        )

    # -- in this process only ---------------------------------------------------------
    async def ensure_admin(self, name: str, logins: tuple[str, ...]) -> None:
        """Make ``name`` an administrator who may log in as ``logins``; others are kept."""
        user = await self._parts.people.find_user(name)
        if user is None:
            user = User(Metadata(name), UserSpec())
        before = user.spec
        had = before.traits.get("logins", ())
        spec = UserSpec(
            roles=tuple(dict.fromkeys((*before.roles, *ADMIN_ROLES))),
            traits={**before.traits, "logins": tuple(dict.fromkeys((*had, *logins)))},
        )
        if spec != before:
            _, new = await self._parts.people.put_user(name, User(user.metadata, spec))
            await self.emit("user.create" if new else "user.update", LOCAL, name=name)

    async def issue_for(
        self, name: str, keys: members.PublicKeys, ttl: timedelta = timedelta(hours=12)
    ) -> Certificates:
        """Issue certificates for a user without asking for a password."""
        user = await self._parts.people.user(name)
        return await self._issue(user, keys, ttl, LOCAL)

    async def _issue(
        self, user: User, keys: members.PublicKeys, ttl: timedelta, caller: Caller
    ) -> Certificates:
        request = self._parts.issuer.user_request(user, self._held(user), ttl)
        certificates = self._parts.issuer.user(request, keys)
        await self.emit(
            "cert.issue",
            Caller(None, caller.remote_addr),
            user=user.metadata.name,
            roles=request.roles,
            login_session=request.login_session,
            kind="user",
            logins=list(request.logins),
            expires=certificates.expires.isoformat(),
        )
        return certificates

    def _held(self, user: User) -> list[Role]:
        roles = self._parts.state.roles
        return [roles[name] for name in user.spec.roles if name in roles]

    # -- anyone -----------------------------------------------------------------------
    async def _health(self, request: Nothing, caller: Caller) -> members.Health:
        return members.Health("ok", VERSION)

    async def _cluster(self, request: Nothing, caller: Caller) -> members.ClusterInfo:
        proxies = self._parts.members.hosts(HostRole.PROXY)
        return members.ClusterInfo(
            self._parts.cluster,
            VERSION,
            now(self._clock),
            self._parts.authorities.trusted,
            tuple(a for p in proxies if p.status is Status.ONLINE for a in p.addresses),
        )

    async def _join(self, request: members.JoinRequest, caller: Caller) -> Certificates:
        try:
            host_id = str(uuid.UUID(request.host_id))
        except ValueError:
            raise InvalidInput("host_id has to be a UUID") from None
        if host_id != request.host_id:
            raise InvalidInput("host_id has to be a UUID in its canonical form")
        presence = Presence(request.name, request.role)  # checks the name
        addresses = _addresses(request.addresses, caller)
        key_blob(request.keys.ssh)
        labels = await self._parts.tokens.use(request.token, request.role)
        certificates = self._parts.issuer.host(
            host_id, presence.name, request.role, request.keys, addresses
        )
        before = await self._parts.members.admit(
            Member(
                host_id, request.role, presence.name, request.keys.ssh, now(self._clock),
                {**request.labels, **labels},
            )
        )  # fmt: skip
        await self.emit(
            "node.join",
            Caller(None, caller.remote_addr),
            server_id=host_id,
            server_name=presence.name,
            role=request.role.value,
            replaced=before is not None,
            renamed_from=before.name if before and before.name != presence.name else "",
        )
        return certificates

    async def _login(self, request: people.LoginRequest, caller: Caller) -> Certificates:
        key_blob(request.keys.ssh)
        verdict = await self._parts.passwords.check(request.user, request.password)
        user = await self._parts.people.find_user(request.user)
        reason = verdict.value if verdict is not Verdict.GOOD else ""
        if user is None:
            reason = reason or Verdict.UNKNOWN.value
        else:
            who = UserIdentity(request.user, self._parts.cluster, now(self._clock), user.spec.roles)
            lock = locked(self._parts.state.locks.values(), who, now(self._clock))
            reason = reason or ("locked" if lock is not None else "")
        if user is None or reason:
            await self.emit("user.login", caller, user=request.user[:128], ok=False, error=reason)
            if verdict is Verdict.LOCKED_OUT:
                await self.emit("user.locked_out", caller, user=request.user[:128], ok=False)
            raise AccessDenied(
                "user or password is wrong, or the user is locked out for a while", "login"
            )
        certificates = await self._issue(user, request.keys, request.ttl, caller)
        await self.emit("user.login", caller, user=request.user, roles=user.spec.roles)
        return certificates

    # -- hosts ------------------------------------------------------------------------
    async def _renew(self, request: members.RenewRequest, caller: Caller) -> Certificates:
        host = _host(caller)
        member = await self._parts.members.require(host)
        presence = Presence(request.name, host.role)
        addresses = _addresses(request.addresses, caller)
        certificates = self._parts.issuer.host(
            host.host_id, presence.name, host.role, request.keys, addresses
        )
        await self._parts.members.admit(
            Member(
                host.host_id, host.role, presence.name, request.keys.ssh, member.joined,
                member.labels,
            )
        )  # fmt: skip
        await self.emit("cert.issue", caller, kind="host", role=host.role.value)
        return certificates

    async def _announce(self, request: Presence, caller: Caller) -> members.Announced:
        if len(request.addresses) > ADDRESSES_LIMIT:
            raise InvalidInput(f"more than {ADDRESSES_LIMIT} addresses")
        bound = await self._parts.members.announce(_host(caller), request)
        return members.Announced(labels=bound)

    def _watch_state(self, request: members.WatchState, receiver: Any) -> Deferred[None]:
        return self._parts.state.watch(receiver)

    def _watch_hosts(self, request: members.WatchHosts, receiver: Any) -> Deferred[None]:
        return self._parts.members.watch(
            request.role, lambda hosts: receiver(members.HostList(hosts))
        )

    async def _emit_events(self, request: records.EmitEvents, caller: Caller) -> Nothing:
        host = _host(caller)
        if len(request.events) > EVENTS_LIMIT:
            raise InvalidInput(f"more than {EVENTS_LIMIT} events at once")
        for value in request.events:
            if value.server_id != host.host_id or value.cluster != self._parts.cluster:
                raise AccessDenied("a host reports events of its own only", "host")
            if value.hash or value.previous:
                raise InvalidInput("auth chains the events, not the host")
        await self._parts.audit.append(*request.events)
        return Nothing()

    async def _start_recording(self, request: records.StartRecording, caller: Caller) -> Nothing:
        await self._parts.recordings.start(_host(caller), request.id, request.start)
        return Nothing()

    async def _update_recording(self, request: records.UpdateRecording, caller: Caller) -> Nothing:
        await self._parts.recordings.update(_host(caller), request)
        return Nothing()

    async def _put_chunk(self, request: records.PutChunk, caller: Caller) -> Nothing:
        await self._parts.recordings.put_chunk(
            _host(caller), request.id, request.number, request.data
        )
        return Nothing()

    async def _finish_recording(self, request: records.FinishRecording, caller: Caller) -> Nothing:
        if request.manifest.id != request.id:
            raise InvalidInput("the manifest is of another recording")
        if await self._parts.recordings.finish(_host(caller), request.manifest):
            start = request.manifest.start
            await self.emit(
                "recording.upload", caller, session_id=request.id, user=start.user,
                login=start.login, chunks=len(request.manifest.chunks),
                recovered=request.manifest.recovered,
            )  # fmt: skip
        return Nothing()

    async def _recording_progress(
        self, request: members.ById, caller: Caller
    ) -> records.RecordingProgress:
        return await self._parts.recordings.progress(_host(caller), request.id)

    # -- people -----------------------------------------------------------------------
    async def _whoami(self, request: Nothing, caller: Caller) -> people.WhoAmI:
        identity = _user(caller)
        roles = await self._roles_of(identity)
        return people.WhoAmI(
            identity.user, roles, identity.logins, identity.cluster, identity.login_session
        )

    async def _list_hosts(self, request: members.ListHosts, caller: Caller) -> members.HostList:
        wanted = _selector(request.labels)
        hosts = [
            host
            for host in self._parts.members.hosts(request.role)
            if (not wanted or allows(wanted, host.labels))
        ]
        identity = caller.identity
        if isinstance(identity, UserIdentity) and not await self._may(caller, "node", "list"):
            moment = now(self._clock)
            hosts = [
                host
                for host in hosts
                if host.role is not HostRole.NODE
                or may_reach(
                    identity, host.labels, self._parts.state.roles,
                    self._parts.state.locks.values(), moment, host.id,
                ) is None
            ]  # fmt: skip
        keys = [f"{host.name}\0{host.id}" for host in hosts]
        begin = next((i for i, key in enumerate(keys) if key > request.after), len(hosts))
        page = hosts[begin : begin + _limit(request.limit)]
        more = begin + len(page) < len(hosts)
        return members.HostList(tuple(page), keys[begin + len(page) - 1] if more and page else "")

    async def _delete_host(self, request: members.ById, caller: Caller) -> Nothing:
        for member in await self._parts.members.remove(request.id):
            await self.emit(
                "node.delete", caller, server_id=member.host_id, server_name=member.name,
                role=member.role.value,
            )  # fmt: skip
        return Nothing()

    async def _list_users(self, request: people.Paged, caller: Caller) -> people.UserList:
        limit = _limit(request.limit)
        found = tuple(await self._parts.people.users(limit, request.after))
        return people.UserList(found, found[-1].metadata.name if len(found) == limit else "")

    async def _get_user(self, request: members.ByName, caller: Caller) -> User:
        return await self._parts.people.user(request.name)

    async def _add_user(self, request: people.NewUser, caller: Caller) -> people.UserPassword:
        await self._check_escalation(caller, request.user.spec.roles, ())
        user, made = await self._parts.people.add_user(request.user, request.password)
        await self.emit("user.create", caller, name=user.metadata.name, given=list(user.spec.roles))
        return people.UserPassword(user, made)

    async def _put_user(self, request: people.PutUser, caller: Caller) -> User:
        before = await self._parts.people.find_user(request.name)
        await self._check_escalation(
            caller, request.user.spec.roles, () if before is None else before.spec.roles
        )
        user, new = await self._parts.people.put_user(request.name, request.user)
        name = "user.create" if new else "user.update"
        await self.emit(name, caller, name=request.name, given=list(user.spec.roles))
        return user

    async def _check_escalation(
        self, caller: Caller, after: tuple[str, ...], before: tuple[str, ...]
    ) -> None:
        """Who gives roles away can give any: it is administering, and it is in the audit.

        But nobody who lost the right to administer in the meantime.
        """
        if set(after) != set(before) and not await self._may(caller, "user", "update"):
            raise AccessDenied("denied: giving roles needs the verb update on user", Reason.RULE)

    async def _reset_user(self, request: people.ResetUser, caller: Caller) -> people.UserPassword:
        user, made = await self._parts.people.reset_user(request.name, request.password)
        await self.emit("user.password", caller, name=request.name)
        return people.UserPassword(user, made)

    async def _delete_user(self, request: members.ByName, caller: Caller) -> Nothing:
        await self._parts.people.delete_user(request.name)
        await self.emit("user.delete", caller, name=request.name)
        return Nothing()

    async def _list_roles(self, request: people.Paged, caller: Caller) -> people.RoleList:
        limit = _limit(request.limit)
        found = tuple(await self._parts.people.roles(limit, request.after))
        return people.RoleList(found, found[-1].metadata.name if len(found) == limit else "")

    async def _get_role(self, request: members.ByName, caller: Caller) -> Role:
        return await self._parts.people.role(request.name)

    async def _put_role(self, request: people.PutRole, caller: Caller) -> Role:
        role = await self._parts.people.put_role(request.name, request.role)
        await self.emit("role.update", caller, name=request.name)
        return role

    async def _delete_role(self, request: members.ByName, caller: Caller) -> Nothing:
        await self._parts.people.delete_role(request.name)
        await self.emit("role.delete", caller, name=request.name)
        return Nothing()

    async def _add_token(self, request: people.NewToken, caller: Caller) -> people.TokenAdded:
        secret, token = await self._parts.tokens.add(request, _user(caller).user)
        await self.emit(
            "token.create", caller, token_id=token.id, for_roles=[r.value for r in token.roles],
            expires=token.expires.isoformat(), max_uses=token.max_uses,
        )  # fmt: skip
        pins = self._parts.authorities[AuthorityKind.HOST].trusted.pins
        return people.TokenAdded(secret, token.roles, token.expires, pins[0])

    async def _list_tokens(self, request: people.Paged, caller: Caller) -> people.TokenList:
        limit = _limit(request.limit)
        return people.TokenList(tuple(await self._parts.tokens.list(limit, request.after)))

    async def _delete_token(self, request: members.ById, caller: Caller) -> Nothing:
        token_id = await self._parts.tokens.delete(request.id)
        await self.emit("token.delete", caller, token_id=token_id)
        return Nothing()

    async def _authorities(self, request: Nothing, caller: Caller) -> people.AuthorityList:
        return people.AuthorityList(
            self._parts.authorities.statuses, self._parts.authorities.trusted
        )

    async def _sign_user(self, request: people.SignUser, caller: Caller) -> people.SignedKey:
        user = await self._parts.people.user(request.user)
        wanted = self._parts.issuer.user_request(user, self._held(user), request.ttl)
        certificate = self._parts.issuer.sign_user(wanted, request.ssh_public_key, request.logins)
        expires = now(self._clock) + wanted.lifetime
        await self.emit(
            "cert.issue", caller, kind="user", name=request.user,
            logins=list(certificate.principals), key=certificate.key.fingerprint,
            expires=expires.isoformat(),
        )  # fmt: skip
        return people.SignedKey(certificate.line, expires)

    async def _sign_host(self, request: people.SignHost, caller: Caller) -> people.SignedKey:
        if not request.principals:
            raise InvalidInput("give the names that the host certificate is for")
        if not timedelta(0) < request.ttl <= timedelta(days=366):
            raise InvalidInput("the lifetime has to be between 0 and 366 days")
        certificate = self._parts.issuer.sign_sshd(
            request.name, request.ssh_public_key, request.principals, request.ttl
        )
        expires = now(self._clock) + request.ttl
        await self.emit(
            "cert.issue", caller, kind="host", principals=list(request.principals),
            key=certificate.key.fingerprint, expires=expires.isoformat(),
        )  # fmt: skip
        return people.SignedKey(certificate.line, expires)

    async def _list_sessions(self, request: people.Paged, caller: Caller) -> records.SessionList:
        everything = await self._may(caller, "session", "list")
        online = {
            host.id
            for role in (HostRole.NODE, HostRole.PROXY)
            for host in self._parts.members.hosts(role)
            if host.status is Status.ONLINE
        }
        rows = [
            row
            for row in await self._parts.recordings.running()
            if row.node_id in online and (everything or row.user == _user(caller).user)
        ]
        return records.SessionList(
            tuple(
                Session(r.id, r.user, r.login, r.node, r.node_id, "", r.started,
                        interactive=r.interactive)
                for r in rows
            )
        )  # fmt: skip

    async def _sees(self, caller: Caller, verb: str) -> Callable[[Recording], bool]:
        if await self._may(caller, "recording", verb):
            return lambda _: True
        mine = _user(caller).user
        return lambda row: row.user == mine

    async def _list_recordings(
        self, request: people.Paged, caller: Caller
    ) -> records.RecordingList:
        wanted = await self._sees(caller, "list")
        rows, following = await self._parts.recordings.list(
            _limit(request.limit), request.after, wanted
        )
        return records.RecordingList(rows, following)

    async def _readable(self, recording_id: str, caller: Caller) -> Recording:
        row = await self._parts.recordings.get(recording_id)
        if not (await self._sees(caller, "read"))(row):
            raise AccessDenied(
                f"denied: recording {row.id} is of {row.user}; to read it takes a rule for"
                " recording",
                Reason.RULE,
            )
        return row

    async def _get_recording(
        self, request: members.ById, caller: Caller
    ) -> records.RecordingDetails:
        row = await self._readable(request.id, caller)
        await self.emit("recording.access", caller, session_id=row.id, of_user=row.user)
        return await self._parts.recordings.details(row)

    async def _get_chunk(self, request: records.GetChunk, caller: Caller) -> records.Octets:
        row = await self._readable(request.id, caller)
        return records.Octets(await self._parts.recordings.chunk(row, request.number))

    async def _delete_recording(self, request: members.ById, caller: Caller) -> Nothing:
        row = await self._parts.recordings.get(request.id)
        await self._parts.recordings.delete(row)
        await self.emit("recording.delete", caller, session_id=row.id, of_user=row.user)
        return Nothing()

    async def _list_events(self, request: records.ListEvents, caller: Caller) -> records.EventList:
        return await self._parts.audit.query(request)

    def _follow_events(self, request: records.FollowEvents, receiver: Any) -> Deferred[None]:
        def told(value: Event) -> None:
            if (not request.event or value.event == request.event) and (
                not request.user or value.user == request.user
            ):
                receiver(value)

        async def run() -> None:
            watch = await self._parts.audit.follow(told)
            try:
                await Deferred()  # until it is cancelled
            finally:
                watch.stop()

        return Deferred.fromCoroutine(run())


@implementer(IAuthority)
class _AsCaller:
    """Auth in this process, with the interface of a remote one."""

    def __init__(self, authority: LocalAuthority, caller: Caller) -> None:
        self._authority = authority
        self._caller = caller

    def perform(self, operation: Operation[Any, Any], request: Any) -> Deferred[Any]:
        """See :class:`IAuthority`."""
        return Deferred.fromCoroutine(self._authority.handle(operation, request, self._caller))

    def follow(
        self, operation: Operation[Any, Any], request: Any, receiver: Callable[[Any], None]
    ) -> Deferred[None]:
        """See :class:`IAuthority`."""
        return self._authority.follow(operation, request, self._caller, receiver)


LOCAL: Final = Caller(None, "local")


def _host(caller: Caller) -> HostIdentity:
    if not isinstance(caller.identity, HostIdentity):
        raise NotLoggedIn("this is for hosts of the cluster")
    return caller.identity


def _user(caller: Caller) -> UserIdentity:
    if not isinstance(caller.identity, UserIdentity):
        raise NotLoggedIn("this is for users of the cluster")
    return caller.identity


def _limit(wanted: int) -> int:
    if not 0 < wanted <= PAGE_LIMIT:
        raise InvalidInput(f"limit has to be from 1 to {PAGE_LIMIT}")
    return wanted


def _selector(labels: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    wanted: dict[str, tuple[str, ...]] = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not key or not equals:
            raise InvalidInput(f"{quoted(label)} is no label: expected key=value")
        wanted[key] = (value,)
    return wanted


def _addresses(said: tuple[str, ...], caller: Caller) -> list[str]:
    """The hosts of ``host:port`` addresses; an address of all interfaces is the caller's own."""
    if len(said) > ADDRESSES_LIMIT:
        raise InvalidInput(f"more than {ADDRESSES_LIMIT} addresses")
    hosts: list[str] = []
    for address in said:
        host = address.rpartition(":")[0] if address.rpartition(":")[2].isdigit() else address
        host = host.strip("[]")
        if not is_host_name(host):
            raise InvalidInput(f"{quoted(address)} is no address")
        try:
            unspecified = ipaddress.ip_address(host).is_unspecified
        except ValueError:
            unspecified = False
        hosts.append(caller.remote_addr.rpartition(":")[0].strip("[]") if unspecified else host)
    return list(dict.fromkeys(host for host in hosts if host))
