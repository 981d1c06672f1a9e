"""How are the settings of the cluster read and changed, and who knows of its backups?

Invariants:

* Every change is an event that says what was before and what is now.
* A backup is an event, as the one who took it states.
* Who requires second factors has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from tele.auth.authorizer import LOCAL_ADMIN
from tele.auth.cluster_settings import ClusterSettings
from tele.auth.handlers import Handler, handler
from tele.auth.journal import Journal
from tele.auth.second_factors import SecondFactors
from tele.errors import Conflict, InvalidInput, quoted
from tele.model.api import table
from tele.model.api.cluster import BackupTaken, ClusterUpdated, PutCluster
from tele.model.api.operation import Nothing
from tele.model.codec import to_json
from tele.model.identity import Caller, UserIdentity
from tele.model.resources import Cluster, RecordingMode, RecordingSettings
from tele.model.second_factors import SecondFactorMode

_HEAD: Final = re.compile(r"[0-9a-f]{64}|", re.ASCII)


class ClusterOperations:
    """Operations on the settings of the cluster."""

    def __init__(self, settings: ClusterSettings, factors: SecondFactors, journal: Journal) -> None:
        self._settings = settings
        self._factors = factors
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
        await self._check_second_factor(request.cluster.spec.second_factor, caller)
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
        told = (
            *warnings(recording, before.spec.session_recording),
            *factor_warnings(after.spec.second_factor, before.spec.second_factor),
        )
        return ClusterUpdated(after, told)

    async def _check_second_factor(self, wanted: SecondFactorMode, caller: Caller) -> None:
        """Refuse a requirement that the caller does not meet: they could not undo it later."""
        identity = caller.identity
        if wanted is not SecondFactorMode.REQUIRED or self._factors.mode is wanted:
            return
        if not isinstance(identity, UserIdentity) or identity.user == LOCAL_ADMIN:
            return
        if not (await self._factors.of(identity.user)).devices:
            raise Conflict(
                "spec.second_factor: set up a second factor for yourself first (tele mfa add), or"
                " you could not log in again"
            )

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


def factor_warnings(mode: SecondFactorMode, before: SecondFactorMode) -> Iterator[str]:
    """Yield what the administrator who changes ``second_factor`` should know."""
    if mode is before:
        return
    if mode is SecondFactorMode.OFF:
        yield "no login asks for a second factor any more, also of users who have one"
    if mode is SecondFactorMode.REQUIRED:
        yield (
            "users without a second factor cannot log in any more, unless by an invitation"
            " (tele users reset NAME --invite); certificates that they have stay valid"
        )


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
