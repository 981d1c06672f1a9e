"""What a bucket's settings, packs and errors mean, without a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tele.errors import InvalidInput, Unavailable
from tele.recording.archives.s3.errors import BucketError, Trouble, error_of
from tele.recording.archives.s3.location import parse_location
from tele.recording.archives.s3.packs import (
    CLOSING,
    PACK_LIMIT,
    choose,
    measure,
    read_span,
)


def test_a_location_has_its_defaults() -> None:
    """A bucket and a region are enough for Amazon's."""
    found = parse_location("//acme-recordings/tele/a?region=eu-central-1")
    assert found.host == "acme-recordings.s3.eu-central-1.amazonaws.com"
    assert (found.tls, found.port, found.authority) == (True, 443, found.host)
    assert found.path("x/y") == "/tele/a/x/y"
    assert str(found) == "s3://acme-recordings/tele/a"


def test_a_location_in_the_path_has_its_port() -> None:
    """The bucket is in the path, and the port in the header."""
    found = parse_location("//rec?endpoint=https://[2001:db8::1]:9000/&path_style=yes")
    assert (found.host, found.port) == ("2001:db8::1", 9000)
    assert found.authority == "[2001:db8::1]:9000"
    assert found.path("x") == "/rec/x"


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "bucket",
        "//",
        "//Bucket",
        "//a..b",
        "//rec/../x",
        "//rec/a b",
        "//rec?unknown=1",
        "//rec?path_style=maybe",
        "//rec?region=eu central",
        "//rec?endpoint=ftp://host",
        "//rec?endpoint=https://user:word@host",
        "//rec?endpoint=https://host/path",
        "//rec?endpoint=https://host:port",
        "//rec?endpoint=http://store.example.com",
        "//rec?endpoint=http://10.0.0.1:9000",
        "//rec#fragment",
    ],
)
def test_a_location_that_is_not_understood_is_refused(arguments: str) -> None:
    """Nothing is ignored, and nothing but this machine is reached without TLS."""
    with pytest.raises(InvalidInput):
        parse_location(arguments)


def test_the_manifest_is_the_last_blob_of_its_pack() -> None:
    """What ends a generation is sent when all before it was."""
    blobs = [("00000000.chunk", 10), (CLOSING, 5), ("zz", 7)]
    assert choose(blobs, CLOSING) == [("00000000.chunk", 10), ("zz", 7), (CLOSING, 5)]
    large = [("00000000.chunk", PACK_LIMIT), ("00000001.chunk", 1), (CLOSING, 5)]
    assert choose(large, CLOSING) == large[:1]
    assert choose([("a", PACK_LIMIT + 1)], CLOSING) == [("a", PACK_LIMIT + 1)]


def test_a_span_of_a_pack_is_read_from_its_files(tmp_path: Path) -> None:
    """Parts of an object begin and end within blobs; a file that changed is noticed."""
    for name, data in (("a", b"01234"), ("b", b""), ("c", b"56789")):
        (tmp_path / name).write_bytes(data)
    pack = measure(tmp_path, ["a", "b", "c"], 1, 0)
    whole = b"0123456789"
    for first in range(10):
        for size in range(1, 11 - first):
            assert read_span(tmp_path, pack, first, size) == whole[first : first + size]
    (tmp_path / "c").write_bytes(b"56780")
    with pytest.raises(ValueError, match="has changed"):
        read_span(tmp_path, pack, 0, 10)


@pytest.mark.parametrize(
    ("status", "code", "trouble"),
    [
        (500, "InternalError", Trouble.RETRY),
        (503, "SlowDown", Trouble.RETRY),
        (502, "", Trouble.RETRY),
        (429, "", Trouble.RETRY),
        (400, "RequestTimeout", Trouble.RETRY),
        (400, "ExpiredToken", Trouble.RETRY),
        (409, "OperationAborted", Trouble.RETRY),
        (403, "SignatureDoesNotMatch", Trouble.REFUSED),
        (403, "AccessDenied", Trouble.REFUSED),
        (404, "NoSuchBucket", Trouble.REFUSED),
        (301, "PermanentRedirect", Trouble.REFUSED),
        (501, "NotImplemented", Trouble.REFUSED),
        (404, "NoSuchKey", Trouble.MISSING),
        (404, "", Trouble.MISSING),
        (400, "EntityTooLarge", Trouble.QUARANTINE),
    ],
)
def test_each_answer_has_a_class(status: int, code: str, trouble: Trouble) -> None:
    """What follows is decided by status and code."""
    error = error_of(status, f"<Error><Code>{code}</Code></Error>".encode(), "storing")
    assert error.trouble is trouble
    assert isinstance(error, Unavailable)


def test_an_answer_cannot_write_to_a_terminal() -> None:
    """The message of a store is quoted and cut."""
    error = error_of(403, b"<Code>X</Code><Message>\x1b[2J" + b"y" * 5000, "storing")
    assert "\x1b" not in str(error)
    assert len(str(error)) < 400
    assert isinstance(error, BucketError)
