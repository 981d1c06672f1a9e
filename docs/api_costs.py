"""What does one call of each operation make auth do? The last column of the table of costs."""

from __future__ import annotations

#: What auth does for one call of each operation. A test holds that none is left out.
WORK: dict[str, str] = {
    "health": "nothing",
    "cluster": "the proxies that are online",
    "join": "one look-up of the token; with a good one some ten look-ups and one commit",
    "rejoin": "one look-up, one signature is checked; with a good one two signatures, two commits",
    "login": "two look-ups, one argon2 hash (64 MiB, two at once), one commit; with the right"
    " password two signatures",
    "renew": "some ten look-ups, two signatures, two commits",
    "announce": "two look-ups; one commit if anything is new, and a line to each proxy",
    "watch_state": "the whole state, made into bytes once for all; then each change",
    "watch_hosts": "all hosts, 500 in a message; then changes, ten times a second at most",
    "emit_events": "1,000 events; each is read and written once and hashed",
    "start_recording": "one commit",
    "update_recording": "three look-ups, two commits",
    "put_chunk": "one file of 8 MiB at most, synced",
    "finish_recording": "the manifest is read, each of its chunks is read and hashed",
    "recording_progress": "the names of the recording's chunks",
    "whoami": "one look-up",
    "list_hosts": "1,000 hosts are looked at for a page, each with 32 labels and one's roles",
    "delete_host": "some ten look-ups, three commits",
    "list_users": "a page of 1,000",
    "get_user": "one look-up",
    "add_user": "one argon2 hash, one commit",
    "put_user": "a look-up for each role, for an administrator all users are read, one commit;"
    " a line to each host if something is taken away",
    "reset_user": "one argon2 hash, one commit",
    "delete_user": "all tokens and the user's sessions are read, for an administrator all users,"
    " one commit; a line to each host",
    "change_password": "two argon2 hashes, two commits",
    "list_roles": "a page of 1,000",
    "get_role": "one look-up",
    "put_role": "its patterns are compiled (1,000 states at most each); a line to each host",
    "delete_role": "all users are read; a line to each host",
    "list_locks": "a page of 1,000",
    "get_lock": "one look-up",
    "put_lock": "three look-ups, for an administrator or a role all users are read, one commit;"
    " a line to each host",
    "delete_lock": "one look-up, one commit; a line to each host",
    "kill_session": "two look-ups, one commit; a line to each host",
    "add_token": "two look-ups, one commit",
    "list_tokens": "a page of 1,000",
    "delete_token": "two look-ups, one commit",
    "authorities": "nothing",
    "sign_user": "two look-ups, one signature",
    "sign_host": "one signature",
    "list_sessions": "one's own: a look-up for each; with a rule: all that run are read",
    "list_recordings": "a page of 1,000, a look-up for each",
    "get_recording": "two look-ups, the names of its chunks, its manifest",
    "get_chunk": "two look-ups, one file of 8 MiB at most",
    "delete_recording": "its files are removed, one commit",
    "list_events": "20,000 events are looked at for a page, which has 4 MiB at most",
    "audit_head": "one look-up",
    "follow_events": "each event is read once for all who follow",
}
