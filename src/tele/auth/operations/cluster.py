"""How are the settings of the cluster read and changed, and who knows of its backups?

Invariants:

* Every change is an event that says what was before and what is now.
* A backup is an event, as the one who took it states.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from tele.auth.cluster_settings import ClusterSettings
from tele.auth.handlers import Handler, handler
from tele.auth.journal import Journal
from tele.errors import InvalidInput, quoted
from tele.model.api import table
from tele.model.api.cluster import BackupTaken, ClusterUpdated, PutCluster
from tele.model.api.operation import Nothing
from tele.model.codec import to_json
from tele.model.identity import Caller
from tele.model.resources import Cluster, RecordingMode, RecordingSettings

_HEAD: Final = re.compile(r"[0-9a-f]{64}|", re.ASCII)


class ClusterOperations:
    """Operations on the settings of the cluster."""

    def __init__(self, settings: ClusterSettings, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal

    def handlers(self) -> tuple[Handler, ...]:
        """The rows of the table."""
        return (
            handler(table.GET_CLUSTER, self.get_cluster),
            handler(table.PUT_CLUSTER, self.put_cluster),
            handler(table.REPORT_BACKUP, self.report_backup),
        )

    async def get_cluster(self, request: Nothing, caller: Caller) -> Cluster:
        """Return the settings."""
        return await self._settings.get()

    async def put_cluster(self, request: PutCluster, caller: Caller) -> ClusterUpdated:
        """Replace the settings."""
        before, after = await self._settings.put(request.cluster)
        recording = after.spec.session_recording
        await self._journal.emit(
            "cluster.update",
            caller,
            name=after.metadata.name,
            mode=recording.mode.value,
            proxy_checks_host_keys=recording.proxy_checks_host_keys,
            session_recording=to_json(recording),
            before=to_json(before.spec.session_recording),
            settings=_others(after),
            settings_before=_others(before),
        )
        return ClusterUpdated(after, tuple(warnings(recording, before.spec.session_recording)))

    async def report_backup(self, request: BackupTaken, caller: Caller) -> Nothing:
        """Append the event of a backup, as the caller states it."""
        if not _HEAD.fullmatch(request.head):
            raise InvalidInput(f"{quoted(request.head)} is not a hash of the audit")
        await self._journal.emit(
            "backup.create", caller, recordings=request.recordings, keys=request.keys,
            passphrase=request.passphrase, events=request.events, head=request.head,
        )  # fmt: skip
        return Nothing()


def _others(cluster: Cluster) -> Any:
    """Return the settings beside those of recordings: what differs from the defaults."""
    settings = to_json(cluster.spec)
    settings.pop("session_recording")
    return settings


def warnings(recording: RecordingSettings, before: RecordingSettings) -> Iterator[str]:
    """Yield what the administrator who sets these should know."""
    if recording.mode is not before.mode:
        yield (
            f"session_recording.mode is {recording.mode.value} now, and was {before.mode.value}:"
            " what is left out gets its default"
        )
    if not recording.proxy_checks_host_keys:
        yield (
            "proxies do not check the host keys of machines with sshd: an attacker between them can"
            " read and change the sessions of users"
        )
    if recording.proxy_plain_keys:
        yield (
            "clients without host certificates have to know and check the host keys of proxies:"
            " with one that accepts any key, an attacker on a proxy can turn a login to one host"
            " into a login to another"
        )
    if recording.mode is RecordingMode.OFF:
        yield "no session that begins from now on is recorded"
