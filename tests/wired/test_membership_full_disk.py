"""A host whose disk is full decides by what auth sent, and by nothing older after a restart."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from tele.durable_files import write_file
from tele.errors import Unavailable
from tele.membership import files
from tele.model.resources import Metadata, Role
from test_membership_member import World, lines, result, world

__all__ = ["lines", "world"]


@define
class Disk:
    """Where private files are written; ``problem`` is an errno, or 0."""

    write: Callable[..., bool]
    problem: int = 0
    tried: list[str] = field(factory=list)

    def __call__(self, path: Path, data: bytes, *, replace: bool) -> bool:
        """Write, or fail as the kernel does."""
        self.tried.append(path.name)
        if self.problem:
            raise OSError(self.problem, os.strerror(self.problem))
        return self.write(path, data, replace=replace)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk that can be filled."""
    made = Disk(write_file)
    monkeypatch.setattr(files, "write_file", made)
    yield made
    made.problem = 0


def roles(member: Any) -> list[str]:
    """Return the names of the roles that the host decides by."""
    return [role.metadata.name for role in member.state.roles]


@pytest.mark.parametrize("problem", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EIO])
def test_state_from_auth_applies_though_it_cannot_be_written(
    world: World, disk: Disk, lines: list[str], problem: int
) -> None:
    """Whatever keeps a new state from the disk, the host decides by it and notifies observers."""
    member = world.start()
    seen: list[list[str]] = []
    member.on_change(lambda: seen.append(roles(member)))
    disk.problem = problem
    world.auth.change(roles=(Role(Metadata("first")),))
    world.auth.change(roles=(Role(Metadata("second")),))
    assert seen == [["first"], ["second"]]
    assert roles(member) == ["second"]
    assert member.trouble == ""
    assert len(lines) == 1
    assert os.strerror(problem) in lines[0]


def test_the_state_is_written_when_there_is_space(
    world: World, disk: Disk, lines: list[str]
) -> None:
    """Writing is tried again, with growing pauses and one line in the log, until it works."""
    member = world.start()
    disk.problem = errno.ENOSPC
    world.auth.change(roles=(Role(Metadata("new")),))
    disk.tried.clear()
    for _ in range(600):
        world.clock.advance(1)
    assert 8 < disk.tried.count("state.json") < 30
    assert len(lines) == 1
    disk.problem = 0
    world.clock.advance(60)
    world.stop(member)
    world.auth.leave()
    assert roles(world.start()) == ["new"]


def test_no_older_state_after_a_restart(world: World, disk: Disk) -> None:
    """Restarted with a full disk and without auth, a host knows no state and refuses all."""
    world.auth.change(roles=(Role(Metadata("old")),))
    member = world.start()
    disk.problem = errno.ENOSPC
    world.auth.change(roles=(Role(Metadata("new")),))
    world.stop(member)
    world.auth.leave()
    again = world.start()
    assert again.identity.host.host_id == member.identity.host.host_id
    with pytest.raises(Unavailable):
        _ = again.state
    world.auth.away = False
    world.clock.advance(60)
    assert roles(again) == ["new"]


def test_labels_that_the_cluster_bound(world: World, disk: Disk) -> None:
    """Bound labels count at once, too; older ones are not used after a restart."""
    world.auth.bound = {"env": "dev"}
    member = world.start()
    disk.problem = errno.ENOSPC
    world.auth.bound = {"env": "prod"}
    world.clock.advance(31)
    assert member.bound_labels == {"env": "prod"}
    calls = world.auth.calls.count("announce")
    world.clock.advance(31)
    assert world.auth.calls.count("announce") > calls, "the loop continues"
    assert not (world.folder / "identity" / "node" / "state.json").exists()
    disk.problem = 0
    world.clock.advance(60)
    world.stop(member)
    world.auth.leave()
    again = world.start()
    assert again.bound_labels == {"env": "prod"}
    assert again.state == member.state


def test_an_old_state_that_cannot_be_removed_is_named(
    world: World, disk: Disk, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not even removing works, as on a read-only file system, the log says which file."""
    world.start()

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)
    disk.problem = errno.EROFS
    world.auth.change()
    assert "state.json, which is outdated, cannot be removed" in lines[0]


def test_renewal_on_a_full_disk(world: World, disk: Disk) -> None:
    """New certificates are used at once, renewed once, and written when there is space."""
    member = world.start()
    first = member.identity
    disk.problem = errno.ENOSPC
    for _ in range(17 * 60):
        world.clock.advance(60)
    second = member.identity
    assert second.expires > first.expires
    assert world.auth.calls.count("renew") == 1
    disk.problem = 0
    world.clock.advance(60)
    world.stop(member)
    assert world.start().identity.expires == second.expires


def test_joining_on_a_full_disk(world: World, disk: Disk) -> None:
    """A token is used once: what was joined with it counts, and is written when there is space."""
    (world.folder).mkdir()
    world.store().close()
    disk.problem = errno.ENOSPC
    member = world.start()
    assert result(member.ready()) is None
    for _ in range(120):
        world.clock.advance(1)
    assert world.auth.calls.count("join") == 1
    disk.problem = 0
    world.clock.advance(60)
    world.stop(member)
    assert world.start().identity.expires == member.identity.expires
    assert world.auth.calls.count("join") == 1


def test_events_that_were_sent_are_forgotten_on_a_full_disk(world: World, disk: Disk) -> None:
    """What auth has leaves the spool, though no new file can be made for the mark."""
    member = world.start()
    disk.problem = errno.ENOSPC
    for number in range(3):
        member.emit(world.event(number))
        world.clock.advance(1)
    assert [event.id for event in world.auth.events] == ["id-0", "id-1", "id-2"]
    assert (world.folder / "identity" / "node" / "events").stat().st_size == 0
