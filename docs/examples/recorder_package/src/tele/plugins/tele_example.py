"""The plugins of the package. tele finds them here; the code is imported when it is used."""

from pathlib import Path
from typing import Any

from twisted.plugin import IPlugin
from zope.interface import implementer

from tele.errors import InvalidInput
from tele.interfaces import IArchiveFactory, IRecorderFactory, RecorderSurroundings, Surroundings


@implementer(IPlugin, IRecorderFactory)
class Commands:
    """Makes the recorder."""

    kind = "commands"
    help = "commands:FILE - a line of JSON for each command"

    def make(self, arguments: str, surroundings: RecorderSurroundings) -> Any:
        """Return the recorder."""
        from tele_example.commands import CommandRecorder

        if not arguments:
            raise InvalidInput("commands: which file?")
        return CommandRecorder(Path(arguments), surroundings.reactor)


@implementer(IPlugin, IArchiveFactory)
class Mirror:
    """Makes the archive."""

    kind = "mirror"
    help = "mirror:DIRECTORY,DIRECTORY - recordings in two directories"

    def make(self, arguments: str, surroundings: Surroundings) -> Any:
        """Return the archive."""
        from tele_example.mirror import MirrorArchive

        roots = [Path(each) for each in arguments.split(",") if each]
        if len(roots) != 2:
            raise InvalidInput("mirror: name two directories")
        return MirrorArchive(roots, surroundings.reactor)


commands = Commands()
mirror = Mirror()
