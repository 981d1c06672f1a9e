"""Which operations does auth offer? All of them, in one table."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from tele.model.api import audit, members, recordings, sessions, users
from tele.model.api.operation import Anyone, Hosts, Nothing, Operation, Permitted, Users
from tele.model.authority import Certificates
from tele.model.event import Event
from tele.model.identity import HostRole
from tele.model.presence import Presence
from tele.model.resources import Lock, Role, User

_ANY = (Anyone(),)
_HOSTS = (Hosts(),)
_REPORTERS = (Hosts((HostRole.NODE, HostRole.PROXY)),)
_RECORDERS = (Hosts((HostRole.NODE,)),)

# -- anyone ---------------------------------------------------------------------------
HEALTH = Operation("health", "GET", "/v1/health", Nothing, members.Health, _ANY, "Is auth there?")
CLUSTER = Operation(
    "cluster", "GET", "/v1/cluster", Nothing, members.ClusterInfo, _ANY,
    "Name, time and authorities, to be checked against a pin",
)  # fmt: skip
JOIN = Operation(
    "join", "POST", "/v1/join", members.JoinRequest, Certificates, _ANY,
    "Become a member with a token", limit=16 * 1024, cost=2,
)  # fmt: skip
REJOIN = Operation(
    "rejoin", "POST", "/v1/rejoin", members.RejoinRequest, Certificates, _ANY,
    "New certificates for a member whose old ones have expired, by proof of its registered key",
    limit=16 * 1024, cost=2,
)  # fmt: skip
LOGIN = Operation(
    "login", "POST", "/v1/login", users.LoginRequest, Certificates, _ANY,
    "Get user certificates for a password", limit=16 * 1024, cost=2,
)  # fmt: skip

# -- hosts ----------------------------------------------------------------------------
RENEW = Operation(
    "renew", "POST", "/v1/renew", members.RenewRequest, Certificates, _HOSTS,
    "New certificates for the calling host", limit=16 * 1024, cost=10,
)  # fmt: skip
ANNOUNCE = Operation(
    "announce", "PUT", "/v1/presence", Presence, members.Announced, _HOSTS,
    "Announce the calling host", limit=64 * 1024, cost=4,
)  # fmt: skip
WATCH_STATE = Operation(
    "watch_state", "GET", "/v1/state", members.WatchState, members.ClusterState, _HOSTS,
    "Roles, locks, authorities and settings, at once and at each change", streams=True, cost=10,
)  # fmt: skip
WATCH_HOSTS = Operation(
    "watch_hosts", "GET", "/v1/hosts/watch", members.WatchHosts, members.HostChanges,
    (Hosts((HostRole.PROXY, HostRole.AUTH)),), "All hosts of a role, and each change", streams=True,
    cost=20,
)  # fmt: skip
EMIT_EVENTS = Operation(
    "emit_events", "POST", "/v1/events", audit.EmitEvents, Nothing, _REPORTERS,
    "Append events to the audit", limit=1024 * 1024, cost=20,
)  # fmt: skip
REPORT_SESSIONS = Operation(
    "report_sessions", "PUT", "/v1/sessions/running", sessions.ReportSessions, Nothing, _RECORDERS,
    "Report which sessions run on the calling node: others of it have ended", limit=1024 * 1024,
    cost=20,
)  # fmt: skip
START_RECORDING = Operation(
    "start_recording", "PUT", "/v1/recordings/{id}", recordings.StartRecording, Nothing, _RECORDERS,
    "A session starts", cost=2,
)  # fmt: skip
UPDATE_RECORDING = Operation(
    "update_recording", "PATCH", "/v1/recordings/{id}", recordings.UpdateRecording, Nothing,
    _RECORDERS, "A session got a terminal, or ended", cost=2,
)  # fmt: skip
PUT_CHUNK = Operation(
    "put_chunk", "PUT", "/v1/recordings/{id}/chunks/{number}", recordings.PutChunk,
    recordings.ChunkStored, _RECORDERS, "Store one chunk of a recording", limit=8 * 1024 * 1024,
    timeout=timedelta(minutes=2), cost=4,
)  # fmt: skip
FINISH_RECORDING = Operation(
    "finish_recording", "PUT", "/v1/recordings/{id}/manifest", recordings.FinishRecording, Nothing,
    _RECORDERS, "Close a recording with its signed manifest", limit=16 * 1024 * 1024, cost=20,
)  # fmt: skip
RECORDING_PROGRESS = Operation(
    "recording_progress", "GET", "/v1/recordings/{id}/progress", members.ById,
    recordings.RecordingProgress, _RECORDERS, "Which chunks are stored already", cost=4,
)  # fmt: skip
OPEN_RECORDINGS = Operation(
    "open_recordings", "GET", "/v1/open-recordings", Nothing, recordings.OpenRecordings, _RECORDERS,
    "Which sessions of the calling node run, as far as auth knows", cost=10,
)  # fmt: skip

# -- users ----------------------------------------------------------------------------
WHOAMI = Operation("whoami", "GET", "/v1/whoami", Nothing, users.WhoAmI, (Users(),), "The caller")
LIST_HOSTS = Operation(
    "list_hosts", "GET", "/v1/hosts", members.ListHosts, members.HostList,
    (Users(), Hosts((HostRole.PROXY, HostRole.AUTH))), "Hosts that the caller may see", cost=10,
)  # fmt: skip
DELETE_HOST = Operation(
    "delete_host", "DELETE", "/v1/hosts/{id}", members.ById, Nothing,
    (Permitted("node", "delete"),), "Remove the host with this id or name",
)  # fmt: skip
LIST_USERS = Operation(
    "list_users", "GET", "/v1/users", users.Paged, users.UserList, (Permitted("user", "list"),),
    "Users", cost=10,
)  # fmt: skip
GET_USER = Operation(
    "get_user", "GET", "/v1/users/{name}", members.ByName, User, (Permitted("user", "read"),),
    "One user",
)  # fmt: skip
ADD_USER = Operation(
    "add_user", "POST", "/v1/users", users.NewUser, users.UserPassword,
    (Permitted("user", "create"),), "Create a user", cost=5,
)  # fmt: skip
PUT_USER = Operation(
    "put_user", "PUT", "/v1/users/{name}", users.PutUser, User, (Permitted("user", "update"),),
    "Create or replace a user",
)  # fmt: skip
RESET_USER = Operation(
    "reset_user", "POST", "/v1/users/{name}/password", users.ResetUser, users.UserPassword,
    (Permitted("user", "update"),), "Give a user a new password", cost=5,
)  # fmt: skip
DELETE_USER = Operation(
    "delete_user", "DELETE", "/v1/users/{name}", users.DeleteUser, users.UserDeleted,
    (Permitted("user", "delete"),), "Remove a user, and end what they have running",
)  # fmt: skip
CHANGE_PASSWORD = Operation(
    "change_password", "POST", "/v1/password", users.ChangePassword, Nothing, (Users(),),
    "Change one's own password", limit=16 * 1024, cost=50,
)  # fmt: skip
LIST_ROLES = Operation(
    "list_roles", "GET", "/v1/roles", users.Paged, users.RoleList, (Permitted("role", "list"),),
    "Roles", cost=10,
)  # fmt: skip
GET_ROLE = Operation(
    "get_role", "GET", "/v1/roles/{name}", members.ByName, Role, (Permitted("role", "read"),),
    "One role",
)  # fmt: skip
PUT_ROLE = Operation(
    "put_role", "PUT", "/v1/roles/{name}", users.PutRole, Role, (Permitted("role", "update"),),
    "Create or replace a role",
)  # fmt: skip
DELETE_ROLE = Operation(
    "delete_role", "DELETE", "/v1/roles/{name}", members.ByName, Nothing,
    (Permitted("role", "delete"),), "Remove a role", cost=20,
)  # fmt: skip
LIST_LOCKS = Operation(
    "list_locks", "GET", "/v1/locks", users.Paged, users.LockList, (Permitted("lock", "list"),),
    "Locks in force", cost=10,
)  # fmt: skip
GET_LOCK = Operation(
    "get_lock", "GET", "/v1/locks/{name}", members.ByName, Lock, (Permitted("lock", "read"),),
    "One lock",
)  # fmt: skip
PUT_LOCK = Operation(
    "put_lock", "PUT", "/v1/locks/{name}", users.PutLock, Lock, (Permitted("lock", "create"),),
    "Create or replace a lock",
)  # fmt: skip
DELETE_LOCK = Operation(
    "delete_lock", "DELETE", "/v1/locks/{name}", members.ByName, Nothing,
    (Permitted("lock", "delete"),), "Remove a lock",
)  # fmt: skip
ADD_TOKEN = Operation(
    "add_token", "POST", "/v1/tokens", users.NewToken, users.TokenAdded,
    (Permitted("token", "create"),), "Create a token for joining",
)  # fmt: skip
LIST_TOKENS = Operation(
    "list_tokens", "GET", "/v1/tokens", users.Paged, users.TokenList, (Permitted("token", "list"),),
    "Tokens, without their secrets", cost=10,
)  # fmt: skip
DELETE_TOKEN = Operation(
    "delete_token", "DELETE", "/v1/tokens/{id}", members.ById, Nothing,
    (Permitted("token", "delete"),), "Revoke a token", cost=10,
)  # fmt: skip
AUTHORITIES = Operation(
    "authorities", "GET", "/v1/authorities", Nothing, users.AuthorityList, (Users(),),
    "The cluster's authorities: status and public keys",
)  # fmt: skip
SIGN_USER = Operation(
    "sign_user", "POST", "/v1/sign/user", users.SignUser, users.SignedKey,
    (Permitted("authority", "update"),), "A user certificate for a given public key", cost=5,
)  # fmt: skip
SIGN_HOST = Operation(
    "sign_host", "POST", "/v1/sign/host", users.SignHost, users.SignedKey,
    (Permitted("authority", "update"),), "A host certificate for a given public key", cost=5,
)  # fmt: skip
LIST_SESSIONS = Operation(
    "list_sessions", "GET", "/v1/sessions", users.Paged, sessions.SessionList,
    (Permitted("session", "list"), Users()), "Sessions that run; without a rule, one's own",
    cost=20,
)  # fmt: skip
KILL_SESSION = Operation(
    "kill_session", "POST", "/v1/sessions/{id}/kill", users.KillSession, Lock,
    (Permitted("session", "delete"), Permitted("lock", "create")), "End a session that runs",
)  # fmt: skip
LIST_RECORDINGS = Operation(
    "list_recordings", "GET", "/v1/recordings", recordings.ListRecordings, recordings.RecordingList,
    (Permitted("recording", "list"), Users()),
    "Recordings, newest first; without a rule, one's own", cost=10,
)  # fmt: skip
GET_RECORDING = Operation(
    "get_recording", "GET", "/v1/recordings/{id}", members.ById, recordings.RecordingDetails,
    (Permitted("recording", "read"), Users()), "One recording; without a rule, one's own", cost=10,
)  # fmt: skip
GET_CHUNK = Operation(
    "get_chunk", "GET", "/v1/recordings/{id}/chunks/{number}", recordings.GetChunk,
    recordings.Octets, (Permitted("recording", "read"), Users(), *_RECORDERS),
    "One chunk; without a rule, of one's own; a node, of its own that is still open", cost=2,
)  # fmt: skip
DELETE_RECORDING = Operation(
    "delete_recording", "DELETE", "/v1/recordings/{id}", members.ById, Nothing,
    (Permitted("recording", "delete"),), "Remove a recording; the audit keeps that it was there",
)  # fmt: skip
LIST_EVENTS = Operation(
    "list_events", "GET", "/v1/events", audit.ListEvents, audit.EventList,
    (Permitted("event", "list"),), "Audit events", cost=50,
)  # fmt: skip
AUDIT_HEAD = Operation(
    "audit_head", "GET", "/v1/events/head", Nothing, audit.AuditHead, (Permitted("event", "list"),),
    "Number and hash of the last audit event",
)  # fmt: skip
FOLLOW_EVENTS = Operation(
    "follow_events", "GET", "/v1/events/follow", audit.FollowEvents, Event,
    (Permitted("event", "list"),), "Audit events as they happen", streams=True, cost=10,
)  # fmt: skip

#: All operations by name.
OPERATIONS: Final[dict[str, Operation[Any, Any]]] = {
    value.name: value for value in list(globals().values()) if isinstance(value, Operation)
}
