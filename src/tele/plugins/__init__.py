"""Where are the plugins that ``kind:arguments`` in a configuration chooses?

In modules of this package, and of every folder ``tele/plugins`` on Python's path that has
no ``__init__.py`` (see :func:`twisted.plugin.pluginPackagePaths`). Each module has
factories as attributes: objects that provide :class:`twisted.plugin.IPlugin` and one of
the factory interfaces of :mod:`tele.interfaces`.
"""

from __future__ import annotations

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
