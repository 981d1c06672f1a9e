"""Token buckets, and reports that are left out: bounded memory, and no source hides another."""

from __future__ import annotations

from counting import calls, is_linear
from tele.admission.rate_limiter import RateLimiter, ReportLimiter


def test_bursts_and_rates() -> None:
    """So many at once, then so many a second; a clock that goes back takes nothing away."""
    limiter = RateLimiter(2, 0.5)
    assert [limiter.take("", 100.0) for _ in range(3)] == [True, True, False]
    assert not limiter.take("", 101.0)
    assert limiter.take("", 103.0)
    assert not limiter.take("", 50.0)
    assert limiter.take("", 52.0)


def test_reports_count_what_it_leaves_out() -> None:
    """The next one that is made counts those left out."""
    limiter = ReportLimiter(RateLimiter(1, 1))
    assert [limiter.admit(9.0) for _ in range(4)] == [0, None, None, None]
    assert limiter.admit(10.0) == 3
    assert limiter.admit(11.0) == 0


def test_an_amount_is_taken_or_nothing() -> None:
    """What costs more than is left takes nothing away."""
    limiter = RateLimiter(10, 1)
    assert not limiter.take("", 0.0, 11)
    assert limiter.take("", 0.0, 10)
    assert not limiter.take("", 1.0, 2)
    assert limiter.take("", 2.0, 2)


def test_a_source_does_not_silence_others() -> None:
    """One that makes reports all the time does not hide what another one does (attack)."""
    limiter = ReportLimiter(RateLimiter(10, 1), RateLimiter(2, 0.1))
    assert [limiter.admit(0.0, "a") for _ in range(100)] == [0, 0, *[None] * 98]
    assert limiter.admit(0.0, "b") == 98
    for number in range(7):
        assert limiter.admit(0.0, f"c{number}") == 0
    assert limiter.admit(0.0, "late") is None, "all together have a limit, too"


def test_keys_are_bounded() -> None:
    """The key used least recently is forgotten first."""
    limiter = RateLimiter(1, 0, most=3)
    for key in ("a", "b", "c", "a", "d"):
        limiter.take(key, 0.0)
    assert len(limiter) == 3
    assert not limiter.take("a", 0.0)
    assert limiter.take("b", 0.0)


def test_a_rate_is_a_burst_and_then_so_many_a_second() -> None:
    """Units are refilled with time, up to the burst; a refusal costs nothing."""
    rates = RateLimiter(burst=10, per_second=2)
    assert rates.take("a", 0, 10)
    assert not rates.take("a", 0)
    assert rates.take("b", 0)
    assert rates.take("a", 1, 2)
    assert not rates.take("a", 1)
    assert rates.take("a", 1000, 10)
    assert not rates.take("a", 1000)


def test_a_caller_that_is_too_fast_waits_and_then_is_refused() -> None:
    """Debts are paid with time, one after the other, and there is an end to them."""
    rates = RateLimiter(burst=4, per_second=2)
    assert rates.wait("a", 0, 4, 5) == 0
    assert [rates.wait("a", 0, 4, 5) for _ in range(3)] == [2, 4, None]
    assert rates.wait("b", 0, 4, 5) == 0
    assert rates.wait("a", 4, 2, 5) == 1


def test_rates_of_many_sources_have_bounded_memory() -> None:
    """However many keys there are, so many are remembered, and each costs the same."""
    rates = RateLimiter(burst=1, per_second=1, most=10)

    def work(size: int) -> int:
        return calls(lambda: [rates.take(str(n), 0) for n in range(size)])

    assert is_linear(work)
    assert len(rates) == 10
