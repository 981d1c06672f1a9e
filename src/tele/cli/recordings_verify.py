"""``tele recordings verify``: is a recording complete and authentic?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tele.cli.auth_client import Authority, Where, open_authority, where_options
from tele.cli.output import format_option, print_notice, print_text, show_data
from tele.cli.recordings import open_evidence
from tele.errors import BadCertificate, BadRecording, InvalidInput
from tele.text import printable

if TYPE_CHECKING:
    from tele.recording.diagnosis import Diagnosis
    from tele.recording.evidence import Evidence

#: Faults that are printed.
_SHOWN: Final = 50
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
    to be signed by the host that recorded it, with a certificate of the cluster's host authority.
    Everything that is wrong is listed, with the number of the chunk. No key of a sealed recording
    is needed: what is in its chunks is then not looked at. A .tape file can be checked offline with
    --ca. Exit status 0: complete and correct; 1: not correct; 7: correct so far, the session is
    running; 8: correct so far, ended but not uploaded; 9: correct so far, but it will not be
    finished, or a part is lost.
    """
    from tele.recording.diagnosis import diagnose

    with open_evidence(recording, where) as (evidence, authority):
        keys, cluster = _trust(evidence, authority, ca, where)
        found = diagnose(evidence, keys, cluster)
    if form != "text":
        show_data(form, _as_data(found, cluster))
    if found.faults:
        raise BadRecording(_faults_text(recording, found))
    status, message = _INCOMPLETE.get(found.state.value, (1, "auth has no manifest of it"))
    if evidence.details is None and evidence.manifest is None:
        message = _FILE_IS_INCOMPLETE
    if found.lost:
        message = f"{message}: {printable(found.lost)}"
    sealed = f"; {found.sealed} chunks are sealed: not opened" if found.sealed else ""
    if not found.complete:
        print_notice(
            f"tele: {printable(found.id)}: {message}; its {found.chunks} chunks so far are"
            f" unchanged{sealed}"
        )
        click.get_current_context().exit(status)
    if form == "text" and found.start is not None:
        role, _ = found.start.recorded_by
        recovered = f"; closed after a crash of the {role.value}" if found.recovered else ""
        print_text(
            f"ok: {found.id}: {found.chunks} chunks, {found.frames} frames,"
            f" {printable(found.start.user)}>{printable(found.start.login)} on"
            f" {printable(found.start.node)}, signed by {role.value}"
            f" {printable(found.signer)}{recovered}{sealed}"
        )


def _as_data(found: Diagnosis, cluster: str) -> dict[str, Any]:
    start = found.start
    return {"id": found.id, "ok": found.complete and not found.faults, "state": found.state.value,
            "chunks": found.chunks, "frames": found.frames, "sealed": found.sealed,
            "complete": found.complete and not found.faults, "recovered": found.recovered,
            "missing": list(found.missing), "incomplete": found.lost,
            "user": start and start.user, "login": start and start.login,
            "node": start and start.node, "node_id": start and start.node_id,
            "recorder": start and start.recorded_by[0].value,
            "recorder_id": start and start.recorded_by[1], "signer": found.signer,
            "cluster": cluster, "more_faults": found.more,
            "faults": [{"kind": fault.kind.value, "chunk": fault.chunk, "text": fault.text}
                       for fault in found.faults]}  # fmt: skip


def _faults_text(recording: str, found: Diagnosis) -> str:
    texts = [printable(fault.text) for fault in found.faults[:_SHOWN]]
    if len(texts) == 1 and not found.more:
        return f"{recording}: verification failed: {texts[0]}"
    count = len(found.faults) + found.more
    if count > len(texts):
        texts.append(f"and {count - len(texts)} more; --format json lists them")
    return "\n".join([f"{recording}: verification failed: {count} faults", *texts])


def _trust(
    source: Evidence, authority: Authority | None, ca: str | None, where: Where
) -> tuple[set[bytes], str]:
    """Return the keys (blobs) of the host authority, and the cluster of the recording."""
    if ca is not None:
        # Its certificates name one cluster; the manifest's has to be the same.
        start = source.start
        return _given_authority(source, ca), where.cluster or (start.cluster if start else "")
    return trusted_hosts(authority, where)


def trusted_hosts(authority: Authority | None, where: Where) -> tuple[set[bytes], str]:
    """Return the keys (blobs) of the host authority as saved at login, or as auth's owner has it.

    The second is the name of the cluster.
    """
    from tele.certs.keys import parse_line
    from tele.cli.auth_client import current, host_keys_ever

    if where.config is not None:
        if authority is None:
            with open_authority(where) as local:
                return _own_authority(local)
        return _own_authority(authority)
    home, profile = current(where)
    return {parse_line(line) for line in host_keys_ever(home.files(profile))}, profile.cluster


def _own_authority(authority: Authority) -> tuple[set[bytes], str]:
    from tele.certs.keys import parse_line
    from tele.model.api.authorities import AUTHORITIES
    from tele.model.api.members import CLUSTER
    from tele.model.api.operation import Nothing

    trusted = authority.perform(AUTHORITIES, Nothing()).trusted
    lines = [k for a in trusted if a.kind.value == "host" for k in a.signed_ever]
    return {parse_line(k) for k in lines}, authority.perform(CLUSTER, Nothing()).cluster


def _given_authority(source: Evidence, ca: str) -> set[bytes]:
    from tele.certs.certificate import parse_certificate
    from tele.certs.keys import parse_line

    if not ca.startswith("SHA256:"):
        return read_authority(Path(ca))
    if source.manifest is None:
        return set()
    try:
        signer = parse_certificate(parse_line(source.manifest.host_certificate))
    except (BadCertificate, InvalidInput):
        return set()  # the examination states what is wrong with it
    if signer.authority_fingerprint != ca:
        return set()
    return {signer.authority_key}


def read_authority(path: Path) -> set[bytes]:
    """Return the keys (blobs) in a file with public keys. Raises :class:`InvalidInput`."""
    from tele.certs.keys import parse_line

    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidInput(f"cannot read {path}: {why}") from None
    keys = {parse_line(line) for line in lines if line.strip()}
    if not keys:
        raise InvalidInput(f"{path} has no public key; tele ca export --type host prints them")
    return keys
