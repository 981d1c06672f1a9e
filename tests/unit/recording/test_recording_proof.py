"""Attacks on what a recording proves: files of another session, signers that are no node."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from proof_world import BEGIN, CA, END, KEY, NODE_ID, OTHER_ID, TRUSTED, Tape, host, source
from tele.certs.issue import UserCertificateRequest, issue_sshd, issue_user
from tele.certs.keys import PrivateKey
from tele.errors import BadRecording, InvalidInput, TeleError
from tele.model.api.recordings import RecordingDetails
from tele.model.codec import encode
from tele.model.identity import HostRole
from tele.model.session import Manifest, Recording, RecordingStart, RecordingState
from tele.recording.playback import from_authority, from_file
from tele.recording.proof import CLOSED_WITHIN, check_signer, check_start, claimed_name
from tele.tape.file import write_file
from tele.tape.verify import VERSION, WITHOUT_NUMBERS


def check(*words: Any, **more: Any) -> None:
    source(*words, **more).verify(TRUSTED, "c")


def test_a_good_recording_is_good() -> None:
    """By auth and as a file, with the cluster's authority."""
    tape = Tape()
    verdict = source(tape.row, tape.manifest, tape.chunks).verify(TRUSTED, "c")
    assert (verdict.complete, verdict.chunks, verdict.frames) == (True, 2, 3)


A, B = Tape(), Tape(b"other", user="mallory")


@pytest.mark.parametrize(
    ("row", "manifest", "chunks"),
    [
        (A.row, B.manifest, B.chunks),
        (A.row, A.manifest, B.chunks),
        (A.row, B.manifest, A.chunks),
        (A.row, A.manifest, [A.chunks[0], B.chunks[1]]),
        (A.row, A.manifest, [B.chunks[0], A.chunks[1]]),
        (A.row, None, A.chunks),
        (A.open, B.manifest, B.chunks),
        (A.open, A.manifest, A.chunks),
        (A.open, None, B.chunks[:1]),
        (A.row, A.manifest, A.chunks[:1]),
        (A.row, A.manifest, [*A.chunks, A.chunks[1]]),
        (evolve(A.row, user="bob"), A.manifest, A.chunks),
        (evolve(A.row, login="bob"), A.manifest, A.chunks),
        (evolve(A.row, node="db1"), A.manifest, A.chunks),
        (evolve(A.row, node_id=OTHER_ID), A.manifest, A.chunks),
        (evolve(A.row, started=END), A.manifest, A.chunks),
        (evolve(A.row, ended=BEGIN), A.manifest, A.chunks),
        (evolve(A.row, size=1), A.manifest, A.chunks),
    ],
)  # fmt: skip
def test_what_lies_under_an_id_is_of_that_session(
    row: Recording, manifest: Manifest | None, chunks: list[bytes]
) -> None:
    """Files of another recording in this one's folder, and a row that was changed, are found."""
    if row.node == "db1":
        manifest = A.signed(evolve(A.manifest, host_certificate=host(name="web2")))
    with pytest.raises(BadRecording):
        check(row, manifest, chunks)


def test_an_id_that_leads_to_another_row_is_found() -> None:
    """Auth that answers with another recording is not believed."""
    row = evolve(B.row, id=B.id)

    def perform(operation: Any, request: Any) -> Any:
        return RecordingDetails(row, 2, B.manifest, RecordingState.COMPLETE)

    with pytest.raises(BadRecording, match="under the id"):
        from_authority(perform, A.id)


def test_a_chunk_too_many_in_the_archive_is_found() -> None:
    """What the manifest does not name does not lie there unseen."""
    with pytest.raises(BadRecording, match="3 chunks are in the archive"):
        check(A.row, A.manifest, A.chunks, available=3)


def signers() -> dict[str, tuple[Manifest, PrivateKey]]:
    """Manifests of A that another host signed, each with a signature that is good."""
    sshd = issue_sshd(
        CA, KEY.public.blob, NODE_ID, (NODE_ID, f"{NODE_ID}.c"), timedelta(days=1), BEGIN,
        lambda n: bytes(n),
    )  # fmt: skip
    user = issue_user(
        CA, KEY.public.blob, UserCertificateRequest("alice", "c", (NODE_ID,), (), "s"), BEGIN,
        lambda n: bytes(n),
    )  # fmt: skip
    other_key = PrivateKey.generate()
    lines = {
        "an sshd": sshd.line,
        "a user": user.line,
        "a proxy": host(role=HostRole.PROXY),
        "auth": host(role=HostRole.AUTH),
        "another node": host(host_id=OTHER_ID, addresses=(f"{NODE_ID}.example",)),
        "another cluster": host(cluster="d"),
        "another authority": host(ca=PrivateKey.generate()),
        "expired": host(moment=BEGIN - timedelta(days=2)),
        "long after": host(moment=END + CLOSED_WITHIN + timedelta(hours=1)),
        "a plain key": KEY.public.line,
        "nothing": "",
    }
    made = {name: (evolve(A.manifest, host_certificate=line), KEY) for name, line in lines.items()}
    return {**made, "another key": (A.manifest, other_key)}


@pytest.mark.parametrize("who", signers())
def test_only_the_node_itself_signs(who: str) -> None:
    """A certificate that has the node's id among its names is not the node's."""
    manifest, key = signers()[who]
    with pytest.raises(BadRecording, match="not signed by its host"):
        check(A.row, A.signed(manifest, key), A.chunks)


# -- recorded by a proxy --------------------------------------------------------------
PROXY_ID = "5b8b6f2e-6a0c-4c8e-9a53-2f7d5d2d9a44"
PROXY: dict[str, Any] = {"recorder": HostRole.PROXY, "recorder_id": PROXY_ID, "mode": "proxy"}
AT_PROXY = Tape(b"through the proxy", **PROXY)
AT_PROXY.row = evolve(AT_PROXY.row, **PROXY)


def by_proxy(start: RecordingStart = AT_PROXY.start, **words: Any) -> Manifest:
    """A manifest of the proxy, or of whom ``words`` say, for a session that began so."""
    line = host(**{"role": HostRole.PROXY, "host_id": PROXY_ID, "name": "gate", **words})
    return AT_PROXY.signed(evolve(AT_PROXY.manifest, start=start, host_certificate=line))


def test_a_proxy_signs_what_it_recorded() -> None:
    """Its certificate closes the recording of a session on a node, and names the proxy."""
    check(AT_PROXY.row, by_proxy(), AT_PROXY.chunks)
    assert check_signer(by_proxy(), TRUSTED, "c").place == (HostRole.PROXY, PROXY_ID)


@pytest.mark.parametrize(
    "manifest",
    [
        by_proxy(host_id=OTHER_ID),
        by_proxy(role=HostRole.NODE),
        by_proxy(role=HostRole.NODE, host_id=NODE_ID, name="web1"),
        by_proxy(role=HostRole.AUTH),
        by_proxy(ca=PrivateKey.generate()),
        by_proxy(evolve(AT_PROXY.start, recorder_id=OTHER_ID), host_id=OTHER_ID),
        by_proxy(evolve(AT_PROXY.start, recorder_id="")),
        by_proxy(evolve(AT_PROXY.start, recorder=HostRole.AUTH), role=HostRole.AUTH),
        by_proxy(evolve(AT_PROXY.start, recorder=HostRole.NODE), role=HostRole.NODE),
        by_proxy(evolve(AT_PROXY.start, recorder=HostRole.NODE), role=HostRole.NODE,
                 host_id=NODE_ID, name="web1"),
        by_proxy(evolve(AT_PROXY.start, recorder=HostRole.NODE, recorder_id=""),
                 role=HostRole.NODE, host_id=NODE_ID, name="web1"),
    ],
)  # fmt: skip
def test_only_the_proxy_that_recorded_signs(manifest: Manifest) -> None:
    """Not another proxy, nor the node of the session, nor a role that records nothing."""
    with pytest.raises(BadRecording):
        check_signer(manifest, TRUSTED, "c")
        check_start(AT_PROXY.row, manifest.start, claimed_name(manifest))


@pytest.mark.parametrize(
    "change",
    [
        {"recorder": HostRole.NODE, "recorder_id": "", "mode": ""},
        {"recorder_id": OTHER_ID},
        {"mode": "proxy-sync"},
        {"target": "openssh"},
    ],
)
def test_auth_noted_who_recorded_and_how(change: dict[str, Any]) -> None:
    """A row with another recorder, mode or target is of another session."""
    with pytest.raises(BadRecording, match="auth noted"):
        check(evolve(AT_PROXY.row, **change), by_proxy(), AT_PROXY.chunks)


def test_the_name_of_a_proxy_is_no_name_of_the_node() -> None:
    """Only a node may have another name in its certificate than auth noted."""
    start = evolve(AT_PROXY.start, node="gate")
    with pytest.raises(BadRecording, match="its node is"):
        check_start(AT_PROXY.row, start, "gate")


def test_a_certificate_renewed_meanwhile_is_good() -> None:
    """A node whose disk was full closes the recording with its next certificate."""
    renewed = evolve(A.manifest, host_certificate=host(moment=END + timedelta(hours=20)))
    check(A.row, A.signed(renewed), A.chunks)


def test_a_node_renamed_since_is_good() -> None:
    """Auth knew the new name already; the certificate says the one of the session."""
    check(evolve(A.row, node="web9"), A.manifest, A.chunks)


def test_another_signature_of_the_nodes_key_is_not_one_of_a_manifest() -> None:
    """A signature over the plain JSON, as another protocol might ask for, closes nothing."""
    plain = evolve(A.manifest, signature=KEY.sign(encode(evolve(A.manifest, signature=b""))))
    with pytest.raises(BadRecording, match="not signed"):
        check(A.row, plain, A.chunks)


def test_recordings_of_the_first_version_stay_good() -> None:
    """What was recorded before an upgrade is verified after it; no version passes for another."""
    second = Tape(numbered=False)
    check(second.row, second.manifest, second.chunks)
    first = second.signed(evolve(second.manifest, version=1))
    check(second.row, first, second.chunks)
    for mixed in (
        evolve(second.manifest, version=1),
        evolve(first, version=WITHOUT_NUMBERS),
        second.signed(evolve(second.manifest, version=0)),
        second.signed(evolve(second.manifest, version=VERSION)),
        second.signed(evolve(second.manifest, version=VERSION + 1)),
    ):
        with pytest.raises(BadRecording):
            check(second.row, mixed, second.chunks)


def test_another_cluster_is_another_cluster() -> None:
    """A recording of one cluster is none of another, also for one who trusts both authorities."""
    with pytest.raises(BadRecording, match="of cluster 'c', not d"):
        source(A.row, A.manifest, A.chunks).verify(TRUSTED, "d")


@pytest.mark.parametrize("state", ["running", "ended", "unfinished"])
def test_an_open_recording_is_never_complete(state: str) -> None:
    """What is there is checked, and never passes for complete."""
    made = source(A.open, None, A.chunks[:1], RecordingState(state))
    assert made.state is RecordingState(state)
    assert not made.verify(TRUSTED, "c").complete


# -- files ----------------------------------------------------------------------------
GOOD = [
    ("start", encode(A.start)),
    ("manifest", encode(A.manifest)),
    ("00000000.chunk", A.chunks[0]),
    ("00000001.chunk", A.chunks[1]),
]


def test_a_file_is_verified_with_nothing_but_the_authority(tmp_path: Path) -> None:
    """Offline, without auth: the same checks but for what auth noted."""
    path = tmp_path / "a.tape"
    path.write_bytes(b"".join(write_file(GOOD)))
    made = from_file(path)
    assert made.state is RecordingState.COMPLETE
    assert made.verify(TRUSTED, "c").complete
    with pytest.raises(BadRecording, match="not of this cluster"):
        made.verify({PrivateKey.generate().public.blob}, "c")
    path.write_bytes(b"".join(write_file([GOOD[0], *GOOD[2:3]])))
    assert from_file(path).state is RecordingState.UNFINISHED
    assert not from_file(path).verify(TRUSTED, "c").complete


Parts = list[tuple[str, bytes]]


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts[1:],
        lambda parts: parts[:2],
        lambda parts: parts[:3],
        lambda parts: [parts[0], parts[0], *parts[1:]],
        lambda parts: [*parts[:2], parts[1], *parts[2:]],
        lambda parts: [*parts, parts[1]],
        lambda parts: [*parts, parts[3]],
        lambda parts: [*parts, ("00000002.chunk", parts[3][1])],
        lambda parts: [*parts, ("notes", b"x")],
        lambda parts: [*parts[:2], parts[3], parts[2]],
        lambda parts: [
            *parts[:2],
            ("00000001.chunk", parts[2][1]),
            ("00000000.chunk", parts[3][1]),
        ],
        lambda parts: [("start", encode(B.start)), *parts[1:]],
        lambda parts: [parts[0], ("manifest", encode(B.manifest)), *parts[2:]],
        lambda parts: [("start", encode(B.start)), *parts[2:]],
        lambda parts: [("start", b"{}"), *parts[1:]],
        lambda parts: [],
    ],
)
def test_a_file_has_its_parts_and_no_others(
    tmp_path: Path, change: Callable[[Parts], Parts]
) -> None:
    """Parts left out, doubled, added, moved or of another recording make it bad."""
    path = tmp_path / "a.tape"
    path.write_bytes(b"".join(write_file(change(GOOD))))
    with pytest.raises(TeleError) as caught:
        from_file(path).verify(TRUSTED, "c")
    assert isinstance(caught.value, BadRecording | InvalidInput)
