"""Where are the plugins that ``kind:arguments`` in a configuration chooses?

In modules of this package, and of every directory ``tele/plugins`` on Python's path without an
``__init__.py`` (see :func:`twisted.plugin.pluginPackagePaths`). Module attributes that provide
:class:`twisted.plugin.IPlugin` and a factory interface of :mod:`tele.interfaces` are factories.
"""

from __future__ import annotations

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
