"""Operations on the settings of the cluster, the resource of kind ``cluster``."""

from __future__ import annotations

from attrs import frozen

from tele.model.api.operation import Nothing, Operation, Permitted
from tele.model.resources import Cluster


@frozen
class PutCluster:
    """Replace the settings. A ``metadata.revision`` other than 0 must be the present one."""

    cluster: Cluster


@frozen
class ClusterUpdated:
    """The settings as they are now. ``warnings`` are what its administrator should know."""

    cluster: Cluster
    warnings: tuple[str, ...] = ()


@frozen
class BackupTaken:
    """A backup of auth was written on its machine.

    ``recordings``: it has those of the archive. ``keys`` are how many public keys open it, and
    ``passphrase`` is whether one does. ``events`` and ``head`` are the mark of the audit in it.
    """

    recordings: bool
    keys: int
    passphrase: bool
    events: int
    head: str


GET_CLUSTER = Operation(
    "get_cluster",
    "GET",
    "/v1/cluster/settings",
    Nothing,
    Cluster,
    (Permitted("cluster", "read"),),
    "The settings of the cluster",
)

PUT_CLUSTER = Operation(
    "put_cluster",
    "PUT",
    "/v1/cluster/settings",
    PutCluster,
    ClusterUpdated,
    (Permitted("cluster", "update"),),
    "Replace the settings of the cluster",
)

REPORT_BACKUP = Operation(
    "report_backup",
    "POST",
    "/v1/cluster/backups",
    BackupTaken,
    Nothing,
    (Permitted("cluster", "update"),),
    "Tell the audit of a backup that was taken",
)
