"""Who may open recordings that are sealed, and how does auth open one?

Recorders seal for the recipients that the cluster's state names: each auth, whose private key is in
its own data_dir, and the recovery keys of the configuration. ``/recordings/recipients/<host>`` is
the public key of an auth, ``/recordings/keys/<id>`` the wrapped data keys of a recording.

Invariants:

* The store and the archive never have a data key that is not wrapped.
* What a recorder sent first counts: nothing replaces a wrapped data key.
* A data key is accepted if it is wrapped for someone whom the state names, and if it opens where
  this auth can open it.
* An auth that is new gets every data key wrapped for it by one that has it; no recording is sealed
  again for that.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred

from tele.auth.repository import Repository
from tele.errors import BadRecording, Conflict, InvalidInput, NotFound, TeleError
from tele.interfaces import Delete, IBackend, Put
from tele.log import make_logger
from tele.model.session import WrappedKey
from tele.tape.sealing import check_recipient, is_wrapped, public_key, unwrap, wrap

log = make_logger(__name__)

KEYS: Final = "/recordings/keys/"
RECIPIENTS: Final = "/recordings/recipients/"
#: Which recipients have all data keys, by an auth that checked.
WRAPPED_FOR: Final = "/recordings/wrapped-for"
#: Data keys, times recipients, that a recorder may send for one recording: at once, and in all. It
#: makes a key when a recording starts, and when it goes on after a crash.
LIMIT: Final = 200
TOTAL: Final = 2000
#: Recordings whose numbers of data keys are kept in memory.
KNOWN_LIMIT: Final = 4096
_STEP: Final = 100


@frozen
class Recipient:
    """An X25519 public key that recordings are sealed for."""

    public: bytes


@frozen
class KeysOfRecording:
    """The wrapped data keys of one recording."""

    wrapped: tuple[WrappedKey, ...]


@frozen
class RecordingEncryption:
    """``private`` is this auth's X25519 key; None: it opens nothing. ``recovery`` are public keys.

    ``enabled``: new recordings are sealed. ``searchable``: their text is kept in clear for the
    search.
    """

    enabled: bool = False
    private: bytes | None = None
    recovery: tuple[bytes, ...] = ()
    searchable: bool = False


class RecordingKeys:
    """The data keys of recordings. ``owner`` is the id of this auth."""

    def __init__(
        self,
        backend: IBackend,
        owner: str = "",
        encryption: RecordingEncryption | None = None,
    ) -> None:
        self._backend = backend
        self._owner = owner
        self._encryption = encryption or RecordingEncryption()
        self._keys = Repository(backend, KEYS, KeysOfRecording)
        self._recipients = Repository(backend, RECIPIENTS, Recipient)
        self._wrapping: Deferred[None] | None = None
        self._numbers: OrderedDict[str, frozenset[int]] = OrderedDict()

    @property
    def enabled(self) -> bool:
        """Whether new recordings are sealed."""
        return self._encryption.enabled

    @property
    def searchable(self) -> bool:
        """Whether the text of sealed recordings is kept in clear for the search."""
        return self._encryption.searchable

    async def start(self) -> None:
        """Make this auth a recipient. Raises :class:`InvalidInput` for a bad recovery key."""
        for public in self._encryption.recovery:
            check_recipient(public)
        if self._encryption.enabled and self._encryption.private is not None:
            mine = Recipient(public_key(self._encryption.private))
            present = await self._recipients.get(self._owner)
            if present is None or present.value != mine:
                await self._backend.commit(self._recipients.put(self._owner, mine))

    def recipients(self, auths: Mapping[str, Recipient]) -> tuple[bytes, ...]:
        """Return the public keys that new recordings are sealed for; none: they are not sealed."""
        if not self._encryption.enabled:
            return ()
        own = (each.public for _, each in sorted(auths.items()))
        return tuple(dict.fromkeys((*own, *self._encryption.recovery)))

    # -- one recording ----------------------------------------------------------------
    async def check(self, recording_id: str, wrapped: Collection[WrappedKey]) -> None:
        """Raise :class:`InvalidInput` unless these data keys open the recording for someone."""
        if len(wrapped) > LIMIT or not all(map(is_wrapped, wrapped)):
            raise InvalidInput("not the wrapped data keys of a recording")
        known = {*self._encryption.recovery}
        known.update(entry.value.public for entry in await self._recipients.list())
        private = self._encryption.private
        if private is not None:
            known.add(public_key(private))
            try:
                unwrap(wrapped, private, recording_id)
            except BadRecording as error:
                raise InvalidInput(str(error)) from None
        numbers = {each.number for each in wrapped}
        if lost := numbers - {each.number for each in wrapped if each.recipient in known}:
            raise InvalidInput(f"data key {min(lost)} is for no recipient in this cluster")

    def first(self, recording_id: str, wrapped: Collection[WrappedKey]) -> tuple[Put, ...]:
        """Return the change that stores the data keys of a new recording."""
        if not wrapped:
            return ()
        return (self._keys.put(recording_id, KeysOfRecording(tuple(wrapped))),)

    async def numbers(self, recording_id: str) -> frozenset[int]:
        """Return the numbers of a recording's data keys; none if it is not sealed."""
        numbers = self._numbers.get(recording_id, frozenset())
        if not numbers:
            numbers = frozenset(each.number for each in await self.wrapped(recording_id))
            if numbers:
                self._numbers[recording_id] = numbers
                if len(self._numbers) > KNOWN_LIMIT:
                    self._numbers.popitem(last=False)
        return numbers

    async def add(self, recording_id: str, wrapped: Collection[WrappedKey]) -> None:
        """Store wrapped data keys that a recorder sends; those that are known stay as they are."""
        if not wrapped:
            return
        await self.check(recording_id, wrapped)
        self._numbers.pop(recording_id, None)

        def merged(present: KeysOfRecording | None) -> KeysOfRecording:
            known = () if present is None else present.wrapped
            # A number that is known has one data key: a recorder adds no recipient of its own.
            numbers = {each.number for each in known}
            new = [w for w in wrapped if w.number not in numbers]
            if new and len(known) + len(new) > TOTAL:
                raise InvalidInput("the recording has too many data keys")
            return KeysOfRecording((*known, *new))

        entry = await self._keys.get(recording_id)
        if entry is None or merged(entry.value) != entry.value:
            await self._keys.change(recording_id, merged)
            self._numbers.pop(recording_id, None)

    async def wrapped(self, recording_id: str) -> tuple[WrappedKey, ...]:
        """Return the wrapped data keys of a recording; none if it is not sealed."""
        entry = await self._keys.get(recording_id)
        return () if entry is None else entry.value.wrapped

    async def opened(self, recording_id: str) -> dict[int, bytes]:
        """Return the data keys of a recording, for one who may read it.

        Raises :class:`NotFound` if it is sealed, and not for this auth.
        """
        wrapped = await self.wrapped(recording_id)
        if not wrapped:
            return {}
        private = self._encryption.private
        found = {} if private is None else unwrap(wrapped, private, recording_id)
        if not found:
            raise NotFound(
                "the recording is sealed, and this auth has no key for it; tele play --identity"
                " opens an exported file with a recovery key"
            )
        return found

    async def sealed(self, after: str) -> Sequence[str]:
        """Return ids of sealed recordings after ``after``, in order; none after the last one."""
        return [entry.name for entry in await self._keys.list(_STEP, after)]

    def removal(self, recording_id: str) -> Delete:
        """Return the change that belongs to the removal of a recording."""
        self._numbers.pop(recording_id, None)
        return self._keys.delete(recording_id)

    # -- recipients that are new ------------------------------------------------------
    def wrap_for(self, auths: Callable[[], Mapping[str, Recipient]]) -> None:
        """Wrap all data keys that this auth can open for recipients that lack them."""
        if self._wrapping is not None or not self.recipients(auths()):
            return
        self._wrapping = Deferred.fromCoroutine(self._wrap_all(auths))
        self._wrapping.addBoth(self._wrapped)

    def _wrapped(self, _: object) -> None:
        self._wrapping = None

    async def stop(self) -> None:
        """End what runs."""
        if self._wrapping is not None:
            ended: Deferred[None] = Deferred()
            self._wrapping.addBoth(lambda _: ended.callback(None))
            self._wrapping.cancel()
            await ended

    async def _wrap_all(self, auths: Callable[[], Mapping[str, Recipient]]) -> None:
        try:
            while True:
                recipients = self.recipients(auths())
                mark = hashlib.sha256(b"".join(sorted(recipients))).hexdigest().encode()
                done = await self._backend.get(WRAPPED_FOR)
                if done is not None and done.value == mark:
                    return
                missed = await self._wrap_each(recipients)
                if recipients == self.recipients(auths()):
                    if not missed:
                        await self._backend.commit(Put(WRAPPED_FOR, mark))
                    return
        except CancelledError:
            return
        except TeleError as error:
            log.warn("data keys of recordings were not wrapped again", reason=str(error))
        except Exception:
            log.failure("data keys of recordings were not wrapped again")

    async def _wrap_each(self, recipients: Sequence[bytes]) -> int:
        """Return how many recordings this auth cannot open."""
        missed, last = 0, ""
        while page := await self._keys.list(_STEP, last):
            last = page[-1].name
            for entry in page:
                lacking = self._lacking(entry.name, entry.value, recipients)
                if lacking is None:
                    missed += 1
                elif lacking:
                    value = KeysOfRecording((*entry.value.wrapped, *lacking))
                    try:
                        await self._backend.commit(
                            self._keys.put(entry.name, value, if_revision=entry.revision)
                        )
                    except Conflict:
                        missed += 1  # another auth does the same, or it was removed
        return missed

    def _lacking(
        self, recording_id: str, keys: KeysOfRecording, recipients: Sequence[bytes]
    ) -> list[WrappedKey] | None:
        """Return what is to be added; None if this auth cannot open the recording."""
        there = {(each.number, each.recipient) for each in keys.wrapped}
        numbers = {each.number for each in keys.wrapped}
        wanted = [(n, r) for n in sorted(numbers) for r in recipients if (n, r) not in there]
        if not wanted:
            return []
        private = self._encryption.private
        try:
            opened = {} if private is None else unwrap(keys.wrapped, private, recording_id)
        except BadRecording:
            return None
        if not numbers <= opened.keys():
            return None
        return [wrap(n, opened[n], recipient, recording_id) for n, recipient in wanted]
