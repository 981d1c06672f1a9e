"""What does ``twistd tele-node --config FILE`` run? The section ``node`` of the file."""

from __future__ import annotations

from twisted.application.service import IService

from tele.tap.options import Options as Options
from tele.tap.options import make


def makeService(options: Options) -> IService:
    """Return the service, for twistd."""
    return make(options, ("node",))
