"""How many file descriptors each user may take, and which are reserved for recordings and the
audit.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tele.admission.limits import Limits, fitted
from tele.capacity.descriptors import DescriptorBudget, shares_of
from tele.errors import Unavailable


@pytest.mark.parametrize("limit", [64, 200, 256, 1024, 4096, 20000, 524288, 1 << 20])
def test_the_parts_are_no_more_than_the_whole(limit: int) -> None:
    """All users and all who have not logged in leave the process its part, whatever the limit."""
    shares = shares_of(limit)
    assert shares.own >= 64
    assert 0 < shares.per_user <= shares.users // 4
    assert limit <= 200 or shares.own + shares.unauthenticated + shares.users <= limit


def test_one_user_takes_a_quarter() -> None:
    """One user is refused beyond a quarter, over all connections; others still get theirs."""
    budget = DescriptorBudget(shares_of(1024))
    alice, again = budget.account("alice"), budget.account("alice")
    person = budget.shares.per_user
    leases = [account.take() for account in (alice, again) for _ in range(person // 2)]
    with pytest.raises(Unavailable, match=f"'alice' holds {person} of at most {person}"):
        alice.take()
    assert budget.account("bob").take(person).count == person
    leases[0].release()
    assert again.take().count == 1


def test_all_users_leave_the_reserve() -> None:
    """Many users together never touch what the process keeps for itself."""
    budget = DescriptorBudget(shares_of(1024))
    for number in range(4):
        budget.account(f"user{number}").take(budget.shares.per_user)
    late = budget.account("late")
    with pytest.raises(Unavailable, match="LimitNOFILE"):
        for _ in range(4):
            late.take()
    assert budget.held <= budget.shares.users


def test_a_lease_is_given_back_once() -> None:
    """Releasing twice frees no more than was taken, and a user without descriptors is forgotten."""
    budget = DescriptorBudget(shares_of(1024))
    other = budget.account("alice").take(2)
    lease = budget.account("alice").take(6)
    lease.keep(4)
    lease.keep(5)
    assert budget.held_by("alice") == 6
    lease.release()
    lease.release()
    assert budget.held == 2
    other.release()
    with pytest.raises(Unavailable):
        budget.account("eve").take(10_000)
    assert not budget._held


@pytest.mark.parametrize("descriptors", [8, 32, 128, 1000, 4000])
def test_connections_before_login_fit(descriptors: int) -> None:
    """Connections that have not logged in have a bound by descriptors, too, and keep their shares:
    one source alone does not come to where others are refused.
    """
    limits = fitted(Limits(), descriptors)
    begin, _, full = limits.startups
    assert full <= descriptors
    assert 0 < limits.startups_per_source < begin <= full
    assert limits.startups_per_member < full
    assert full + limits.waiting <= descriptors
    assert fitted(Limits(), 1424) == Limits()


USED_UP = """
import os, sys
from pathlib import Path
from tele.capacity.descriptors import given_limit, process_budget, raise_limit, spare_descriptor
from tele.membership.files import write_private
raise_limit()
assert os.sysconf("SC_OPEN_MAX") == 128, "the soft limit is the hard one"
raise_limit()
assert given_limit() == 64, "what is started for users has the one before"
process_budget()
used = []
while True:
    try:
        used.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        break
for number in range(100):
    write_private(Path(sys.argv[1]) / "file", b"%d" % number)
    with spare_descriptor():
        os.close(os.open(os.devnull, os.O_RDONLY))
try:
    os.open(os.devnull, os.O_RDONLY)
except OSError as error:
    print(error.strerror)
"""


def test_files_are_written_when_all_else_is_used_up(tmp_path: Path) -> None:
    """A process that has no descriptors left still writes its files, as often as it wants; its
    soft limit is raised to the hard one first.
    """
    words = ["prlimit", "--nofile=64:128", sys.executable, "-c", USED_UP, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("Too many open files\n", "")
    assert (tmp_path / "file").read_bytes() == b"99"
