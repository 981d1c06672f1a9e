"""Which operations does auth offer? All of them, for what serves or describes the whole API.

A caller imports an operation from the module of its resource: all of them take longer to
import than a command of ``tele`` may take.
"""

from __future__ import annotations

from typing import Any, Final

from tele.model.api.audit import AUDIT_HEAD as AUDIT_HEAD
from tele.model.api.audit import EMIT_EVENTS as EMIT_EVENTS
from tele.model.api.audit import FOLLOW_EVENTS as FOLLOW_EVENTS
from tele.model.api.audit import LIST_AUDIT_HEADS as LIST_AUDIT_HEADS
from tele.model.api.audit import LIST_EVENTS as LIST_EVENTS
from tele.model.api.authorities import AUTHORITIES as AUTHORITIES
from tele.model.api.authorities import ROTATE as ROTATE
from tele.model.api.authorities import ROTATION as ROTATION
from tele.model.api.authorities import SIGN_HOST as SIGN_HOST
from tele.model.api.authorities import SIGN_USER as SIGN_USER
from tele.model.api.cluster import GET_CLUSTER as GET_CLUSTER
from tele.model.api.cluster import PUT_CLUSTER as PUT_CLUSTER
from tele.model.api.cluster import REPORT_BACKUP as REPORT_BACKUP
from tele.model.api.hosts import ADD_HOST as ADD_HOST
from tele.model.api.hosts import DELETE_HOST as DELETE_HOST
from tele.model.api.hosts import LIST_HOSTS as LIST_HOSTS
from tele.model.api.hosts import REPORT_HOST_PROBES as REPORT_HOST_PROBES
from tele.model.api.hosts import WATCH_HOSTS as WATCH_HOSTS
from tele.model.api.invitations import ACCEPT_INVITATION as ACCEPT_INVITATION
from tele.model.api.keeping import DELETE_RECORDING as DELETE_RECORDING
from tele.model.api.keeping import HOLD_RECORDING as HOLD_RECORDING
from tele.model.api.keeping import LIST_HOLDS as LIST_HOLDS
from tele.model.api.keeping import LIST_STUCK as LIST_STUCK
from tele.model.api.keeping import RELEASE_RECORDING as RELEASE_RECORDING
from tele.model.api.keeping import RETRY_RECORDING as RETRY_RECORDING
from tele.model.api.locks import DELETE_LOCK as DELETE_LOCK
from tele.model.api.locks import GET_LOCK as GET_LOCK
from tele.model.api.locks import LIST_LOCKS as LIST_LOCKS
from tele.model.api.locks import PUT_LOCK as PUT_LOCK
from tele.model.api.members import ANNOUNCE as ANNOUNCE
from tele.model.api.members import CLUSTER as CLUSTER
from tele.model.api.members import HEALTH as HEALTH
from tele.model.api.members import JOIN as JOIN
from tele.model.api.members import REJOIN as REJOIN
from tele.model.api.members import RENEW as RENEW
from tele.model.api.members import WATCH_STATE as WATCH_STATE
from tele.model.api.mfa import ADD_MFA as ADD_MFA
from tele.model.api.mfa import ADD_WEBAUTHN as ADD_WEBAUTHN
from tele.model.api.mfa import BEGIN_WEBAUTHN as BEGIN_WEBAUTHN
from tele.model.api.mfa import CERTIFY_MFA_SESSION as CERTIFY_MFA_SESSION
from tele.model.api.mfa import GET_MFA as GET_MFA
from tele.model.api.mfa import NEW_RECOVERY_CODES as NEW_RECOVERY_CODES
from tele.model.api.mfa import REMOVE_MFA as REMOVE_MFA
from tele.model.api.mfa import RESET_MFA as RESET_MFA
from tele.model.api.operation import Operation
from tele.model.api.plain_keys import LIST_PLAIN_KEYS as LIST_PLAIN_KEYS
from tele.model.api.plain_keys import REPLACE_PLAIN_KEY as REPLACE_PLAIN_KEY
from tele.model.api.proxying import CERTIFY_TARGET as CERTIFY_TARGET
from tele.model.api.proxying import MINT_SESSION as MINT_SESSION
from tele.model.api.recordings import FINISH_RECORDING as FINISH_RECORDING
from tele.model.api.recordings import GET_CHUNK as GET_CHUNK
from tele.model.api.recordings import GET_INDEX as GET_INDEX
from tele.model.api.recordings import GET_RECORDING as GET_RECORDING
from tele.model.api.recordings import GET_RECORDING_KEYS as GET_RECORDING_KEYS
from tele.model.api.recordings import LIST_RECORDINGS as LIST_RECORDINGS
from tele.model.api.recordings import OPEN_RECORDINGS as OPEN_RECORDINGS
from tele.model.api.recordings import PUT_CHUNK as PUT_CHUNK
from tele.model.api.recordings import PUT_CHUNKS as PUT_CHUNKS
from tele.model.api.recordings import RECORDING_PROGRESS as RECORDING_PROGRESS
from tele.model.api.recordings import START_RECORDING as START_RECORDING
from tele.model.api.recordings import UPDATE_RECORDING as UPDATE_RECORDING
from tele.model.api.revocation import GET_KRL as GET_KRL
from tele.model.api.roles import DELETE_ROLE as DELETE_ROLE
from tele.model.api.roles import GET_ROLE as GET_ROLE
from tele.model.api.roles import LIST_ROLES as LIST_ROLES
from tele.model.api.roles import PUT_ROLE as PUT_ROLE
from tele.model.api.search import SEARCH_RECORDINGS as SEARCH_RECORDINGS
from tele.model.api.sessions import CLAIM_CONNECTION as CLAIM_CONNECTION
from tele.model.api.sessions import GET_SESSION as GET_SESSION
from tele.model.api.sessions import KILL_SESSION as KILL_SESSION
from tele.model.api.sessions import LIST_SESSIONS as LIST_SESSIONS
from tele.model.api.sessions import REPORT_SESSIONS as REPORT_SESSIONS
from tele.model.api.tokens import ADD_TOKEN as ADD_TOKEN
from tele.model.api.tokens import DELETE_TOKEN as DELETE_TOKEN
from tele.model.api.tokens import LIST_TOKENS as LIST_TOKENS
from tele.model.api.tokens import TOKEN_LOGIN as TOKEN_LOGIN
from tele.model.api.users import ADD_USER as ADD_USER
from tele.model.api.users import CHANGE_PASSWORD as CHANGE_PASSWORD
from tele.model.api.users import DELETE_USER as DELETE_USER
from tele.model.api.users import GET_USER as GET_USER
from tele.model.api.users import LIST_USERS as LIST_USERS
from tele.model.api.users import LOGIN as LOGIN
from tele.model.api.users import PUT_USER as PUT_USER
from tele.model.api.users import RESET_USER as RESET_USER
from tele.model.api.users import WHOAMI as WHOAMI

#: All operations by name.
OPERATIONS: Final[dict[str, Operation[Any, Any]]] = {
    value.name: value for value in list(globals().values()) if isinstance(value, Operation)
}
