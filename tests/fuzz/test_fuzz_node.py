"""The fuzz targets of the node, for a short while."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

import fuzz_sftp
import fuzz_spawn_request

PACKETS = st.tuples(st.sampled_from(fuzz_sftp.HARMLESS), st.binary(max_size=64)) | st.sampled_from(
    fuzz_sftp.SEEDS
)


@given(st.lists(PACKETS, max_size=8))
@example(fuzz_sftp.SEEDS)
@settings(deadline=None)
def test_sftp_server(packets: list[tuple[int, bytes]]) -> None:
    """Any packets are answered one by one, or end the session."""
    fuzz_sftp.check(packets)


@given(
    st.binary(max_size=256)
    | st.builds(
        lambda seed, at, junk: seed[:at] + junk + seed[at + len(junk) :],
        st.sampled_from(fuzz_spawn_request.SEEDS),
        st.integers(0, 80),
        st.binary(max_size=4),
    )
)
@example(fuzz_spawn_request.SEEDS[0])
@settings(deadline=None)
def test_spawn_request(data: bytes) -> None:
    """Any message is read strictly, or refused."""
    fuzz_spawn_request.check(data)
