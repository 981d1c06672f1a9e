"""Auth opens sealed recordings for those who may read them, and refuses all others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from auth_world import OTHER_ID, Tape, World, result, sealed_chunks
from tele.auth.recording_keys import TOTAL, Recipient, RecordingEncryption, RecordingKeys
from tele.errors import AccessDenied, InvalidInput, NotFound
from tele.model.api import recordings, table
from tele.model.api.keeping import RemoveRecording
from tele.model.api.paging import ById
from tele.model.session import WrappedKey
from tele.tape.sealing import public_key, wrap

FIRST, SECOND, RECOVERY = (bytes([n]) * 32 for n in (1, 2, 3))
SECRET = bytes(range(32))


@pytest.fixture
def world() -> Iterator[World]:
    made = World(RecordingEncryption(False, FIRST, (public_key(RECOVERY),)))
    yield made
    made.stop()


def sealed(world: World, *recipients: bytes, secret: bytes = SECRET) -> Tape:
    """A recording whose data key is wrapped for these."""
    return Tape(world, seal=lambda id_: wrapped_for(id_, *(recipients or (FIRST,)), secret=secret))


def wrapped_for(
    recording_id: str, *recipients: bytes, secret: bytes = SECRET
) -> tuple[WrappedKey, ...]:
    return tuple(wrap(1, secret, public_key(each), recording_id) for each in recipients)


def test_who_may_read_gets_the_key(world: World) -> None:
    """The user whose session it was, an auditor; each is an event. Others get none (attack)."""
    tape = sealed(world)
    for name, role in (("alice", "access"), ("bob", "access"), ("otto", "auditor")):
        world.add_user(name, role)
    for name, role in (("otto", "auditor"), ("bob", "access")):
        caller = world.user(name, role)
        if name == "bob":
            with pytest.raises(AccessDenied):
                world.do(table.GET_RECORDING_KEYS, ById(tape.id), caller)
            continue
        (key,) = world.do(table.GET_RECORDING_KEYS, ById(tape.id), caller).keys
        assert (key.number, key.secret) == (1, SECRET)
    assert [e.user for e in world.events("recording.access")] == ["otto"]
    with pytest.raises(AccessDenied):
        world.do(table.GET_RECORDING_KEYS, ById(tape.id), tape.host)


def test_a_recording_that_is_not_sealed_has_no_keys(world: World) -> None:
    """The same call says so."""
    tape = Tape(world)
    assert world.do(table.GET_RECORDING_KEYS, ById(tape.id)).keys == ()


def test_a_key_that_was_sent_is_not_replaced(world: World) -> None:
    """A node that was taken over later cannot make what it sent unreadable (attack)."""
    tape = sealed(world)
    other = wrap(1, bytes(32), public_key(FIRST), tape.id)
    again = recordings.StartRecording(tape.id, tape.start, (other,))
    world.do(table.START_RECORDING, again, tape.host)
    (key,) = world.do(table.GET_RECORDING_KEYS, ById(tape.id)).keys
    assert key.secret == SECRET


def test_a_key_of_another_recording_is_not_opened(world: World) -> None:
    """A node that sends it as its own is refused (attack)."""
    victim = sealed(world)
    stolen = result(world.parts.recordings.keys.wrapped(victim.id))
    with pytest.raises(InvalidInput, match="not one of this recording"):
        Tape(world, seal=lambda _: stolen)


@pytest.mark.parametrize(
    "key",
    [(0, bytes(32), bytes(80)), (1, b"", bytes(80)), (1, bytes(32), b"")],
)
def test_what_is_no_wrapped_key_is_refused(world: World, key: tuple[int, bytes, bytes]) -> None:
    """Neither a number below 1 nor other sizes, nor very many."""
    tape = Tape(world)
    for keys in ((WrappedKey(*key),), (WrappedKey(1, bytes(32), bytes(80)),) * 201):
        with pytest.raises(InvalidInput):
            again = recordings.StartRecording(tape.id, tape.start, keys)
            world.do(table.START_RECORDING, again, tape.host)


def test_without_its_key_auth_says_so(world: World) -> None:
    """A recording that is sealed for a recovery key alone."""
    tape = sealed(world, RECOVERY)
    with pytest.raises(NotFound, match="no key for it"):
        world.do(table.GET_RECORDING_KEYS, ById(tape.id))


def test_the_archive_has_the_wrapped_keys(world: World) -> None:
    """So that a recovery key opens what is left when the store is lost; they go with it."""
    from attrs import evolve

    from tele.tape.verify import to_sign

    tape = sealed(world, FIRST, RECOVERY)
    tape.chunks = sealed_chunks(tape)
    tape.upload(0, 1)
    manifest = evolve(tape.manifest(), keys=1)
    tape.finish(evolve(manifest, signature=tape.key.sign(to_sign(manifest))))
    assert (tape.id, "keys") in world.archive.blobs
    assert SECRET not in world.archive.blobs[tape.id, "keys"]
    world.do(table.DELETE_RECORDING, RemoveRecording(tape.id, "old"))
    assert world.archive.blobs == {}
    assert result(world.parts.recordings.keys.wrapped(tape.id)) == ()


def test_a_new_auth_gets_every_key_wrapped_again(world: World) -> None:
    """By one that has it, and once; nothing is sealed again, and what it cannot open stays."""
    tapes = [sealed(world) for _ in range(3)]
    foreign = sealed(world, RECOVERY)
    auths = {"auth-1": Recipient(public_key(FIRST)), OTHER_ID: Recipient(public_key(SECOND))}
    keys = RecordingKeys(
        world.backend, "auth-1", RecordingEncryption(True, FIRST, (public_key(RECOVERY),))
    )
    keys.wrap_for(lambda: auths)
    second = RecordingKeys(world.backend, OTHER_ID, RecordingEncryption(True, SECOND))
    for tape in tapes:
        assert result(second.opened(tape.id)) == {1: SECRET}
        wrapped = result(second.wrapped(tape.id))
        assert len({each.recipient for each in wrapped}) == 3
    assert len(result(second.wrapped(foreign.id))) == 1


def test_recipients_are_those_of_the_state(world: World) -> None:
    """Each auth and the recovery keys, each once; none while it is not enabled."""
    keys = RecordingKeys(
        world.backend, "auth-1", RecordingEncryption(True, FIRST, (public_key(RECOVERY),) * 2)
    )
    result(keys.start())
    auths = {"auth-1": Recipient(public_key(FIRST))}
    assert keys.recipients(auths) == (public_key(FIRST), public_key(RECOVERY))
    off = RecordingKeys(world.backend, "auth-1", RecordingEncryption(False, FIRST))
    assert off.recipients(auths) == ()
    wrong = RecordingEncryption(True, FIRST, (bytes(32),))
    with pytest.raises(InvalidInput):
        result(RecordingKeys(world.backend, "x", wrong).start())


def test_attack_a_node_sends_keys_without_end(world: World) -> None:
    """A node that begins its recording again and again with other keys fills no row."""
    tape = Tape(world)
    sent = 0
    for call in range(60):
        numbers = range(1 + call * 50, 51 + call * 50)
        keys = tuple(WrappedKey(n, public_key(RECOVERY), bytes(80)) for n in numbers)
        try:
            again = recordings.StartRecording(tape.id, tape.start, keys)
            world.do(table.START_RECORDING, again, tape.host)
        except InvalidInput:
            break
        sent += len(keys)
    assert sent == TOTAL
    assert len(result(world.parts.recordings.keys.wrapped(tape.id))) == TOTAL
    again = recordings.StartRecording(tape.id, tape.start, keys[:0])
    world.do(table.START_RECORDING, again, tape.host)  # what is known is no news
    large = WrappedKey(1 << 16, public_key(RECOVERY), bytes(80))
    with pytest.raises(InvalidInput):
        again = recordings.StartRecording(tape.id, tape.start, (large,))
        world.do(table.START_RECORDING, again, tape.host)
