"""``tele recordings verify``: is a recording complete and authentic?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tele.cli.auth_client import Authority, Where, open_authority, where_options
from tele.cli.output import format_option, print_notice, print_text, show_data
from tele.cli.recordings import open_source
from tele.errors import BadCertificate, BadRecording, InvalidInput
from tele.text import printable

if TYPE_CHECKING:
    from tele.recording.playback import Source

#: Exit status and message for a recording that is correct so far, by its state.
_INCOMPLETE = {
    "running": (7, "the session is running: its node is online and has not reported an end"),
    "ended": (8, "the session has ended, but its node has not uploaded all of it yet"),
    "unfinished": (9, "it was never finished: its node is gone, or has no record of it"),
    "incomplete": (9, "it is closed as incomplete"),
}
_FILE_IS_INCOMPLETE = "the file has no manifest: it was exported before the recording was complete"


@click.command()
@click.argument("recording")
@click.option(
    "--ca",
    metavar="FILE|SHA256:...",
    help="Trust this host authority, without asking auth: a file with the output of `tele ca"
    " export --type host`, or a fingerprint.",
)
@format_option()
@where_options(local=True)
def verify(recording: str, ca: str | None, form: str, where: Where) -> None:
    """Check that a recording, by id or as a .tape file, is unchanged and authentic.

    Its chunks, its manifest, auth's record of the start and the first frame have to agree; it has
    to be signed by the node, with a certificate of the cluster's host authority. A .tape file can
    be checked offline with --ca. Exit status 0: complete and correct; 1: not correct; 7: correct so
    far, the session is running; 8: correct so far, ended but not uploaded; 9: correct so far, but
    it will not be finished, or a part is lost.
    """
    try:
        with open_source(recording, where) as (source, authority):
            keys, cluster = _trust(source, authority, ca, where)
            verdict = source.verify(keys, cluster)
    except BadRecording as error:
        raise BadRecording(f"{recording}: verification failed: {error}") from None
    status, message = _INCOMPLETE.get(source.state.value, (1, "auth has no manifest of it"))
    if source.details is None and source.manifest is None:
        message = _FILE_IS_INCOMPLETE
    if source.lost:
        message = f"{message}: {printable(source.lost)}"
    if form != "text":
        show_data(form, {"id": source.id, "ok": verdict.complete, "state": source.state.value,
                         "chunks": verdict.chunks, "frames": verdict.frames,
                         "complete": verdict.complete, "recovered": verdict.recovered,
                         "missing": list(source.missing), "incomplete": source.lost,
                         "user": source.start.user, "login": source.start.login,
                         "node": source.start.node, "node_id": source.start.node_id,
                         "cluster": cluster})  # fmt: skip
    if not verdict.complete:
        print_notice(
            f"tele: {source.id}: {message}; its {verdict.chunks} chunks so far are unchanged"
        )
        click.get_current_context().exit(status)
    if form == "text":
        _, signer = source.start.recorded_by
        recovered = "; closed after a crash of the node" if verdict.recovered else ""
        print_text(
            f"ok: {source.id}: {verdict.chunks} chunks, {verdict.frames} frames,"
            f" {printable(source.start.user)}>{printable(source.start.login)} on"
            f" {printable(source.start.node)}, signed by {signer}{recovered}"
        )


def _trust(
    source: Source, authority: Authority | None, ca: str | None, where: Where
) -> tuple[set[bytes], str]:
    """Return the keys (blobs) of the host authority, and the cluster of the recording."""
    from tele.certs.keys import parse_line
    from tele.cli.auth_client import current, host_keys

    if ca is not None:
        # Its certificates name one cluster; the manifest's has to be the same.
        return _given_authority(source, ca), where.cluster or source.start.cluster
    if where.config is not None:
        if authority is None:
            with open_authority(where) as local:
                return _own_authority(local)
        return _own_authority(authority)
    home, profile = current(where)
    return {parse_line(line) for line in host_keys(home.files(profile))}, profile.cluster


def _own_authority(authority: Authority) -> tuple[set[bytes], str]:
    from tele.certs.keys import parse_line
    from tele.model.api.authorities import AUTHORITIES
    from tele.model.api.members import CLUSTER
    from tele.model.api.operation import Nothing

    trusted = authority.perform(AUTHORITIES, Nothing()).trusted
    lines = [k for a in trusted if a.kind.value == "host" for k in a.ssh_public_keys]
    return {parse_line(k) for k in lines}, authority.perform(CLUSTER, Nothing()).cluster


def _given_authority(source: Source, ca: str) -> set[bytes]:
    from tele.certs.certificate import parse_certificate
    from tele.certs.keys import parse_line

    if not ca.startswith("SHA256:"):
        try:
            lines = Path(ca).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise InvalidInput(f"cannot read {ca}: {why}") from None
        keys = {parse_line(line) for line in lines if line.strip()}
        if not keys:
            raise InvalidInput(f"{ca} has no public key; tele ca export --type host prints them")
        return keys
    if source.manifest is None:
        return set()
    try:
        signer = parse_certificate(parse_line(source.manifest.host_certificate))
    except (BadCertificate, InvalidInput) as error:
        raise BadRecording(f"the manifest is not signed by its host: {error}") from None
    if signer.authority_fingerprint != ca:
        raise BadRecording(
            f"its node's certificate is of the authority {signer.authority_fingerprint}, not {ca}"
        )
    return {signer.authority_key}
