"""While recordings are encrypted, auth takes nothing in clear, but what was begun before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from attrs import evolve

from auth_world import HOST_ID, OTHER_ID, Tape, World, result, sealed_chunks
from tele.auth.recording_keys import RecordingEncryption, RecordingKeys
from tele.auth.recording_sealing import FINISH_WITHIN, TOLERANCE, RecordingSealing
from tele.errors import AccessDenied, Conflict, InvalidInput
from tele.loop import now
from tele.model.api import recordings, table
from tele.model.identity import HostRole
from tele.model.presence import Presence
from tele.model.session import WrappedKey
from tele.tape.sealing import public_key, wrap
from tele.tape.verify import to_sign

OWN, RECOVERY, FOREIGN = (bytes([n]) * 32 for n in (1, 2, 3))
SECRET = bytes(range(32))
ON = RecordingEncryption(True, OWN, (public_key(RECOVERY),))


@pytest.fixture
def world() -> Iterator[World]:
    """A cluster that is to be switched by :func:`switch`."""
    made = World()
    yield made
    made.stop()


def switch(world: World, encryption: RecordingEncryption) -> None:
    """Start auth again with another configuration."""
    keys = RecordingKeys(world.backend, "auth-1", encryption)
    sealing = RecordingSealing(world.backend, keys, world.parts.members, lambda: now(world.clock))
    result(keys.start())
    result(sealing.start())
    world.parts.recordings.keys = keys
    # Its operations have the same object as before.
    world.parts.uploads.sealing.__dict__.update(sealing.__dict__)


def announce(world: World, host_id: str = HOST_ID) -> None:
    """A host is told the state of the cluster."""
    presence = Presence("web1", HostRole.NODE)
    world.do(table.ANNOUNCE, presence, world.host(host_id))


def for_own(recording_id: str) -> tuple[WrappedKey, ...]:
    return (wrap(1, SECRET, public_key(OWN), recording_id),)


def finish(tape: Tape, keys: int) -> None:
    """Close it with a manifest that states so many data keys."""
    manifest = evolve(tape.manifest(), keys=keys, ended=tape.start.started)
    tape.finish(evolve(manifest, signature=tape.key.sign(to_sign(manifest))))


def test_attack_a_node_that_was_taken_over_sends_a_session_in_clear(world: World) -> None:
    """It is refused from its first call, with the reason, and that is an event."""
    world.join(world.token())
    world.clock.advance(1)
    switch(world, ON)
    announce(world)
    world.clock.advance(TOLERANCE.total_seconds() + 1)
    with pytest.raises(AccessDenied, match="recordings of this cluster are encrypted"):
        Tape(world)
    (event,) = world.events("auth.denied")
    assert "encrypted" in event.error
    assert not [blob for blob in world.archive.blobs if blob[1].endswith(".chunk")]


def test_attack_an_earlier_date_helps_for_a_week(world: World) -> None:
    """A start that was backdated is taken as begun before, but not for ever."""
    world.join(world.token())
    before = now(world.clock)
    world.clock.advance(1)
    switch(world, ON)
    announce(world)
    world.clock.advance(FINISH_WITHIN.total_seconds() + 1)
    announce(world)
    with pytest.raises(AccessDenied, match="encrypted"):
        Tape(world, started=before)


def test_attack_a_host_that_joins_later_sends_nothing_in_clear(world: World) -> None:
    """It has begun nothing before the switch, whatever date it states."""
    before = now(world.clock)
    switch(world, ON)
    world.clock.advance(60)
    world.join(world.token(), OTHER_ID)
    for started in (before, now(world.clock)):
        with pytest.raises(AccessDenied, match="joined after that began"):
            Tape(world, host_id=OTHER_ID, started=started)


def test_what_was_begun_before_is_finished(world: World) -> None:
    """A recording that auth has goes on in clear, however long; nothing of it is lost."""
    tape = Tape(world)
    tape.upload(0)
    switch(world, ON)
    announce(world)
    world.clock.advance(FINISH_WITHIN.total_seconds() * 2)
    tape.host = world.host()
    world.do(table.START_RECORDING, recordings.StartRecording(tape.id, tape.start), tape.host)
    tape.upload(1)
    finish(tape, 0)
    assert result(world.parts.recordings.get(tape.id)).complete


def test_a_host_that_was_away_uploads_what_it_has(world: World) -> None:
    """It began sessions while it could not be told: they count until it is."""
    world.join(world.token())
    world.clock.advance(60)
    switch(world, ON)
    world.clock.advance(3 * 86400)
    begun = now(world.clock) - timedelta(hours=2)
    announce(world)
    Tape(world, started=begun).upload(0, 1)
    world.clock.advance(3600)
    with pytest.raises(AccessDenied, match="encrypted"):
        Tape(world)


def test_a_restart_keeps_the_moment_of_the_switch(world: World) -> None:
    """Only switching it off and on again begins anew."""
    world.join(world.token())
    world.clock.advance(1)
    switch(world, ON)
    announce(world)
    world.clock.advance(3600)
    switch(world, ON)
    with pytest.raises(AccessDenied, match="encrypted"):
        Tape(world)
    switch(world, RecordingEncryption(False, OWN))
    Tape(world)
    switch(world, ON)
    Tape(world)


def test_attack_a_chunk_in_clear_is_no_part_of_a_sealed_recording(world: World) -> None:
    """Whether it is one of another version, or garbage; a sealed one is stored."""
    switch(world, ON)
    tape = Tape(world, seal=for_own)
    chunks = sealed_chunks(tape)
    for wrong in (b"anything", b"TLT1" + bytes(60), b"TLT2" + bytes(100)):
        tape.chunks = [wrong]
        with pytest.raises(InvalidInput, match="is not sealed, and its recording is"):
            tape.upload(0)
    tape.chunks = sealed_chunks(tape, number=2)
    with pytest.raises(InvalidInput, match="data key 2, which auth was not given"):
        tape.upload(0)
    tape.chunks = chunks
    tape.upload(0, 1)
    with pytest.raises(InvalidInput, match="states 0 data keys"):
        finish(tape, 0)
    finish(tape, 1)


def test_a_sealed_chunk_without_its_key_is_refused(world: World) -> None:
    """Encryption is off and the host gave no key: what it sends would open for no recipient."""
    tape = Tape(world)
    tape.chunks = sealed_chunks(tape)
    with pytest.raises(InvalidInput, match="data key 1, which auth was not given"):
        tape.upload(0)


def test_a_session_that_began_sealed_stays_sealed(world: World) -> None:
    """Encryption is switched off meanwhile: auth still has its key, and opens it."""
    switch(world, ON)
    tape = Tape(world, seal=for_own)
    tape.chunks = sealed_chunks(tape)
    tape.upload(0)
    switch(world, RecordingEncryption(False, OWN))
    later = Tape(world, seal=for_own)  # its host has not heard of it yet
    later.chunks = sealed_chunks(later)
    later.upload(0, 1)
    tape.upload(1)
    finish(tape, 1)


def test_attack_a_recording_sealed_for_no_recipient(world: World) -> None:
    """A host seals for a key of its own, or for auth with what does not open: it is refused."""
    switch(world, ON)
    for keys in (
        lambda id_: (wrap(1, SECRET, public_key(FOREIGN), id_),),
        lambda id_: (*for_own(id_), wrap(2, SECRET, public_key(FOREIGN), id_)),
    ):
        with pytest.raises(InvalidInput, match="is for no recipient in this cluster"):
            Tape(world, seal=keys)
    with pytest.raises(InvalidInput, match="not one of this recording"):
        Tape(world, seal=lambda _: for_own("another recording"))
    assert Tape(world, seal=lambda id_: (wrap(1, SECRET, public_key(RECOVERY), id_),))


def test_attack_keys_for_a_recording_that_has_clear_chunks(world: World) -> None:
    """A recording in clear does not become a sealed one, whose chunks would be refused."""
    tape = Tape(world)
    tape.upload(0)
    switch(world, ON)
    again = recordings.StartRecording(tape.id, tape.start, for_own(tape.id))
    with pytest.raises(Conflict, match="without data keys"):
        world.do(table.START_RECORDING, again, tape.host)
