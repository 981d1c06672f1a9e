"""Must this recording be sealed, and is it?

Whether a recording is sealed is decided by its start, and holds for each chunk and its manifest.

Invariants:

* While recordings are encrypted, auth accepts no new recording in clear: root on a host
  cannot have a session stored in clear.
* What a host began before it was told is accepted for :data:`FINISH_WITHIN`, and not later. When it
  was told is auth's own knowledge: the host's first announcement since encryption was switched on.
  A host that joined later has begun nothing before.
* A sealed recording is accepted if someone of this cluster can open it. If that is this auth, its
  data keys do open.
* A chunk in clear is no part of a sealed recording, nor a sealed one of a recording in clear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from tele.auth.members import Member, Members
from tele.auth.recording_keys import RecordingKeys
from tele.auth.repository import Repository
from tele.errors import AccessDenied, BadRecording, InvalidInput
from tele.interfaces import IBackend
from tele.model.session import Manifest, WrappedKey
from tele.tape.layout import read_head

SEALING: Final = "/recordings/sealing/"
SINCE: Final = "since"
#: How far the clock of a host may be ahead, and how long the cluster's state may take to it.
TOLERANCE: Final = timedelta(minutes=5)
FINISH_WITHIN: Final = timedelta(days=7)


class RecordingSealing:
    """What of recordings has to be sealed. ``members`` are told when it is switched on."""

    def __init__(
        self,
        backend: IBackend,
        keys: RecordingKeys,
        members: Members,
        now: Callable[[], datetime],
    ) -> None:
        self._backend = backend
        self._keys = keys
        self._members = members
        self._now = now
        self._marks = Repository(backend, SEALING, datetime)
        self._since: datetime | None = None

    async def start(self) -> None:
        """Note when encryption was switched on, or that it is off."""
        mark = await self._marks.get(SINCE)
        if not self._keys.enabled:
            if mark is not None:
                await self._backend.commit(self._marks.delete(SINCE))
            return
        self._since = self._now() if mark is None else mark.value
        if mark is None:
            await self._backend.commit(self._marks.put(SINCE, self._since))

    async def announced(self, member: Member) -> None:
        """Note that a host which announces itself gets the cluster's state."""
        if self._since is not None and max(member.joined, member.told_to_seal) < self._since:
            await self._members.note_told_to_seal(member, self._now())

    async def check_start(
        self, member: Member, started: datetime, keys: Sequence[WrappedKey], recording_id: str
    ) -> None:
        """Check a recording that is new. ``started`` is its host's claim.

        Raises :class:`AccessDenied` for one in clear that has to be sealed, and
        :class:`InvalidInput` for keys that open nothing.
        """
        if keys:
            await self._keys.check(recording_id, keys)
            return
        if self._since is None:
            return
        reason = (
            "recordings of this cluster are encrypted, and this one is not:"
            f" {member.role.value} {member.name}"
        )
        if member.joined >= self._since:
            raise AccessDenied(f"{reason} joined after that began", "host")
        now = self._now()
        told = member.told_to_seal if member.told_to_seal >= self._since else now
        if started > told + TOLERANCE or now > told + FINISH_WITHIN:
            raise AccessDenied(
                f"{reason} was told at {told:%F %T} UTC. What began before is accepted for"
                f" {FINISH_WITHIN.days} days. Upgrade a host whose version cannot encrypt",
                "host",
            )

    async def check_chunk(self, recording_id: str, number: int, data: bytes) -> None:
        """Raise :class:`InvalidInput` for a clear chunk of a sealed recording, or the reverse."""
        try:
            key = read_head(data, number).key
        except BadRecording:
            key = 0  # no chunk at all, which verification states
        if not key and self._since is None:
            return  # saves a call; what is in clear among sealed chunks fails the manifest
        numbers = await self._keys.numbers(recording_id)
        if key and key not in numbers:
            raise InvalidInput(
                f"chunk {number} is sealed with data key {key}, which auth was not given"
            )
        if numbers and not key:
            raise InvalidInput(f"chunk {number} is not sealed, and its recording is")

    async def check_manifest(self, manifest: Manifest) -> None:
        """Raise :class:`InvalidInput` if a manifest states other data keys than auth was given."""
        numbers = await self._keys.numbers(manifest.id)
        if numbers != frozenset(range(1, manifest.keys + 1)):
            raise InvalidInput(
                f"the manifest states {manifest.keys} data keys, and auth was given {len(numbers)}"
            )
