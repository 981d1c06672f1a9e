"""Which numbers does tele have? Every name with its meaning, in one place.

The reference is printed from this table; the dashboard and the alert rules are tested against it.
"""

from __future__ import annotations

from typing import Final

from tele.measures.metric import Kind, Metric

_KNOWN: Final[list[Metric]] = []


def _metric(name: str, kind: Kind, meaning: str, *labels: str) -> Metric:
    made = Metric(f"tele_{name}", kind, meaning, labels)
    _KNOWN.append(made)
    return made


def _counter(name: str, meaning: str, *labels: str) -> Metric:
    return _metric(f"{name}_total", Kind.COUNTER, meaning, *labels)


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return _metric(name, Kind.GAUGE, meaning, *labels)


def _histogram(name: str, meaning: str, *labels: str) -> Metric:
    return _metric(name, Kind.HISTOGRAM, meaning, *labels)


# -- each part ------------------------------------------------------------------------
BUILD: Final = _gauge("build_info", "1; the version, and which part it is.", "version", "part")
READY: Final = _gauge("ready", "1 while the part serves, as /readyz says it; otherwise 0.")
DELAY: Final = _histogram(
    "event_loop_delay_seconds", "How late the event loop is: a timer each second, less the second."
)
CERTIFICATE: Final = _gauge(
    "certificate_expiry_timestamp_seconds",
    "When a certificate expires (Unix time): own, of a host; user_ca and host_ca at auth.",
    "certificate",
)
SCRAPES: Final = _counter("scrapes", "How often these numbers were read.")

# -- nodes and proxies ----------------------------------------------------------------
NETWORK: Final = _counter(
    "network_bytes",
    "Bytes of this process's SSH connections and tunnels over TCP, by the kernel's count.",
    "direction",
)
LOGINS: Final = _counter(
    "logins",
    "Logins by SSH at nodes and proxies that record, and of users at auth: accepted or refused,"
    " and why.",
    "result", "reason",
)  # fmt: skip
REFUSED: Final = _counter(
    "connections_refused", "Connections that were closed before a login, by the reason.", "reason"
)
CONNECTIONS: Final = _gauge(
    "connections", "Open SSH connections to this part: authenticated or not yet.", "state"
)
SESSIONS: Final = _gauge("sessions", "Logged-in connections of users that end at this part.")
TUNNELS: Final = _gauge("tunnels", "Tunnels: of a proxy from nodes, of a node to proxies.")
SKEW: Final = _gauge(
    "clock_skew_seconds", "By how much the clock is ahead of auth's; less than 0 if it is behind."
)
REACHABLE: Final = _gauge("auth_reachable", "1 while auth answers; otherwise 0.")
STATE_AGE: Final = _gauge(
    "cluster_state_age_seconds", "How old the roles and locks are that the part decides by."
)
HEARTBEATS: Final = _counter(
    "heartbeats", "Announcements to auth that were answered, and that failed.", "result"
)
HEARTBEAT_AGE: Final = _gauge(
    "heartbeat_age_seconds", "Time since auth answered an announcement; none before the first one."
)
SPOOL: Final = _gauge("audit_spool_bytes", "Audit events that auth does not have yet.")
SPOOL_AGE: Final = _gauge(
    "audit_spool_age_seconds", "How long there have been events that auth does not have."
)
SPOOL_FULL: Final = _gauge(
    "audit_spool_full", "1 while no event of one more session could be kept; otherwise 0."
)
LOST: Final = _counter("audit_events_lost", "Audit events that could not be kept.")
RECORDING: Final = _gauge("recordings_open", "Recordings that are being written.")
RECORDINGS: Final = _gauge(
    "recordings_waiting", "Recordings that auth does not have completely, open ones included."
)
RECORDING_BYTES: Final = _gauge("recording_spool_bytes", "Bytes of recordings that wait for auth.")
RECORDING_FREE: Final = _gauge(
    "recording_spool_free_bytes", "Free bytes of the disk of that spool, once it was measured."
)
UPLOADS_FAILING: Final = _gauge(
    "recording_uploads_failing", "Recordings whose last attempt to be uploaded failed."
)
GIVEN_UP: Final = _counter(
    "recordings_given_up", "Recordings that were put aside: auth refuses them, or they are damaged."
)

# -- proxies --------------------------------------------------------------------------
NODES: Final = _gauge("nodes", "Nodes that a proxy knows, by their state.", "status")
DIALS: Final = _counter(
    "node_dials", "Connections from a proxy to nodes: made or failed.", "result"
)
DIAL_SECONDS: Final = _histogram(
    "node_dial_seconds", "How long a client waits until a proxy has reached its node."
)

# -- auth -----------------------------------------------------------------------------
HOSTS: Final = _gauge("hosts", "Hosts by role (node, proxy) and state.", "role", "status")
ANNOUNCEMENTS: Final = _counter("announcements", "Announcements that auth took.", "role")
DENIALS: Final = _counter("denials", "Calls that auth refused for their caller.", "reason")
REQUESTS: Final = _counter(
    "api_requests", "Calls that auth answered: ok, or the kind of the error.", "result"
)
REQUEST_SECONDS: Final = _histogram("api_request_seconds", "How long auth took to answer a call.")
API_CONNECTIONS: Final = _gauge("api_connections", "Open connections to auth's API.")
STORE_SECONDS: Final = _histogram(
    "store_seconds", "How long the store took: commit or read, waiting included.", "operation"
)
STORE_ERRORS: Final = _counter(
    "store_errors", "Calls of the store that failed, conflicts not counted.", "operation"
)
STORE_CONFLICTS: Final = _counter(
    "store_conflicts", "Commits that another one preceded: auth reads again, and retries."
)
AUDIT_EVENTS: Final = _counter("audit_events", "Events that this auth appended to the audit.")
AUDIT_WAITING: Final = _gauge("audit_events_waiting", "Events that wait to be appended.")
SINK_ERRORS: Final = _counter("audit_sink_errors", "Events that sinks of the audit did not get.")
PHASE: Final = _gauge(
    "ca_rotation_phase", "1 for the phase that a CA is in; standby is no rotation.", "ca", "phase"
)
DISK_FREE: Final = _gauge("disk_free_bytes", "Free bytes of auth's disks.", "disk")
DISK_SIZE: Final = _gauge("disk_size_bytes", "Size of auth's disks.", "disk")
DISK_FULL: Final = _gauge("disk_full", "1 while auth takes only logins and deletions.")
UPLOADS_STUCK: Final = _gauge(
    "archive_uploads_stuck", "Recordings that auth cannot upload to its bucket for now."
)
UPLOAD_BYTES: Final = _gauge("archive_upload_bytes", "Bytes that wait for auth's bucket.")

#: All of them, by name.
CATALOGUE: Final = {metric.name: metric for metric in _KNOWN}
