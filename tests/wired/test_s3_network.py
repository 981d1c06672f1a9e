"""The network before a bucket fails at each step of an upload: nothing is lost, nothing hangs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bad_bucket import BadBucket, Fault
from s3_world import ID, OTHER, S3World, chunk, s3_world_of
from swift_server import INSTALLED, Swift, running_swift
from tele.errors import Unavailable

pytest.importorskip("botocore")
pytestmark = pytest.mark.skipif(not INSTALLED, reason="OpenStack Swift is not installed")


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    with running_swift(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture
def world(swift: Swift, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[S3World]:
    """An archive below a prefix of its own, behind a network that fails."""
    with s3_world_of(request, swift, tmp_path) as made:
        yield made


@pytest.fixture
def network(world: S3World, swift: Swift) -> Iterator[BadBucket]:
    """The network, and the archive that is started behind it."""
    bad = BadBucket(world.reactor, swift.port).start()
    world.arguments = world.arguments.replace(f":{swift.port}&", f":{bad.port}&")
    world.start()
    yield bad
    bad.stop()


def certificate(address: str = "127.0.0.1") -> tuple[bytes, bytes]:
    """Return a certificate for an address in PEM, and the same with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bucket")])
    moment = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(moment - timedelta(hours=1))
        .not_valid_after(moment + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, pem + private


@pytest.mark.parametrize("trust", ["system", "another", "own", "address"])
def test_the_buckets_certificate_is_checked(
    world: S3World, swift: Swift, tmp_path: Path, trust: str
) -> None:
    """Nothing is sent to a host with a certificate of another CA or address (attack)."""
    pem, whole = certificate("127.0.0.2" if trust == "address" else "127.0.0.1")
    bad = BadBucket(world.reactor, swift.port, tls=whole).start()
    world.arguments = world.arguments.replace(
        f"http://127.0.0.1:{swift.port}&", f"https://127.0.0.1:{bad.port}&"
    )
    if trust != "system":
        file = tmp_path / "ca.pem"
        file.write_bytes(certificate()[0] if trust == "another" else pem)
        world.arguments += f"&ca_file={file}"
    world.start()
    world.put(ID, "manifest", b"{}")
    if trust == "own":
        world.until_uploaded()
        assert world.get(ID, "manifest") == b"{}"
        assert world.stuck() == []
    else:
        world.reactor.until(lambda: bool(world.reports))
        (stuck,) = world.stuck()
        assert stuck.state == "refused"
        assert "certificate" in stuck.reason
        assert bad.seen == []
        assert world.get(ID, "manifest") == b"{}"
    bad.stop()


FAULTS = (Fault.ERROR, Fault.HANG, Fault.CUT_REQUEST, Fault.CUT_ANSWER)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", ["put", "head", "begin", "part", "complete"])
def test_a_step_that_fails_is_repeated(
    world: S3World, network: BadBucket, step: str, fault: Fault
) -> None:
    """A 500, a silent peer, and a cut before and after the work: the upload ends whole."""
    network.plan[step] = [fault]
    for number in range(3):
        world.put(ID, f"{number:08d}.chunk", chunk(number))
    world.put(ID, "manifest", b"{}")
    world.until_uploaded()
    assert network.plan[step] == []
    assert step in network.seen
    for number in range(3):
        assert world.get(ID, f"{number:08d}.chunk") == chunk(number)
    assert world.get(ID, "manifest") == b"{}"
    assert world.reports == []


@pytest.mark.parametrize("fault", [*FAULTS, Fault.CUT_BODY])
def test_a_read_that_fails_is_repeated(world: S3World, network: BadBucket, fault: Fault) -> None:
    """A body that is cut is never taken for the whole one."""
    world.put(ID, "00000000.chunk", chunk(0, 100_000))
    world.put(ID, "manifest", b"{}")
    world.until_uploaded()
    network.plan["get"] = [fault]
    assert world.get(ID, "00000000.chunk") == chunk(0, 100_000)
    assert network.plan["get"] == []


def test_an_answer_that_drips_ends(world: S3World, network: BadBucket) -> None:
    """A peer that sends a byte now and then is given up; on a busy machine it may even stall."""
    world.put(ID, "00000000.chunk", chunk(0, 100_000))
    world.put(ID, "manifest", b"{}")
    world.until_uploaded()
    world.stop()
    world.whole = 2.0
    world.start()
    network.plan["get"] = [Fault.DRIP] * 3
    with pytest.raises(Unavailable, match=r"more than 2 s|nothing moved"):
        world.get(ID, "00000000.chunk")


def test_a_bucket_that_is_away_is_waited_for(world: S3World, network: BadBucket) -> None:
    """Chunks are accepted all the while; others go on as soon as it answers."""
    network.plan["put"] = [Fault.ERROR] * 12
    for recording in (ID, OTHER):
        world.put(recording, "00000000.chunk", b"first")
        world.put(recording, "manifest", b"{}")
    world.until_uploaded(120)
    assert world.get(ID, "00000000.chunk") == b"first"
    assert world.get(OTHER, "00000000.chunk") == b"first"


def test_a_stop_does_not_wait_for_a_silent_bucket(world: S3World, network: BadBucket) -> None:
    """An upload that hangs is cancelled, and done after the next start."""
    world.archive._transport._stall = 600.0
    network.plan["put"] = [Fault.HANG]
    world.put(ID, "manifest", b"{}")
    world.reactor.until(lambda: "put" in network.seen)
    world.reactor.wait(world.archive.stop(), 5.0)
    assert world.landed() == ["manifest"]
    world.start()
    world.until_uploaded()
    assert world.get(ID, "manifest") == b"{}"


def test_removal_while_an_upload_hangs(world: S3World, network: BadBucket) -> None:
    """The upload ends, and nothing of the recording stays."""
    network.plan["part"] = [Fault.HANG]
    for number in range(3):
        world.put(ID, f"{number:08d}.chunk", chunk(number))
    world.reactor.until(lambda: "part" in network.seen)
    world.reactor.wait(world.archive.remove(ID))
    assert "abort" in network.seen
    assert world.names(ID) == {}
    assert world.landed() == []
    world.put(ID, "00000000.chunk", b"new")
    assert world.get(ID, "00000000.chunk") == b"new"
