"""How much does a connection keep? The size of all objects that only it leads to."""

from __future__ import annotations

import gc
import sys
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

from tele.sockets.buffers import RECEIVED, SEALED

_SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType, CodeType, FrameType)


def weigh(root: Any, *not_its: Any) -> int:
    """Return bytes of what can be reached from ``root`` and not only through ``not_its``."""
    seen = {id(each) for each in (*not_its, RECEIVED, SEALED)}
    seen |= {id(vars(each)) for each in not_its if hasattr(each, "__dict__")}
    waiting, total = [root], 0
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, _SHARED):
            continue
        seen.add(id(each))
        total += sys.getsizeof(each)
        if isinstance(each, MethodType):
            waiting.append(each.__self__)
            continue
        waiting += gc.get_referents(each)
    return total
