"""Handlers by name, as a worker's processes load them.

A name is ``package.module:function`` or ``path/to/file.py:function``.
"""

from __future__ import annotations

import importlib
import importlib.util
import operator
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from mailq.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

IN_CHILD: Final = "MAILQ_WORKER_PROCESS"
"""An environment variable: in a child of a worker it is the child's process id."""

_NAME: Final = re.compile(r"(?P<module>[^:]+):(?P<attribute>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")


def looks_like_target(text: str) -> bool:
    """Whether a text names a handler, and not a queue."""
    return _NAME.fullmatch(text) is not None


def load(name: str) -> Any:  # noqa: ANN401 - it may name anything
    """Import what a name stands for. Raises UsageError if there is no such thing; errors of the module itself pass."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(f"{name!a} names no handler; write package.module:function or file.py:function")
    module = _module(found["module"], name)
    try:
        return operator.attrgetter(found["attribute"])(module)
    except AttributeError as error:
        raise UsageError(
            f"{name!a}: {found['module']} has no {error.name or found['attribute']!r}; see how it is spelled there"
        ) from None


def _module(text: str, name: str) -> ModuleType:
    if text.endswith(".py") or os.sep in text:
        return _file(text, name)
    try:
        return importlib.import_module(text)
    except ModuleNotFoundError as error:
        # Only if it is this module, or a package on the way to it, that is missing: not what it imports itself.
        if error.name and (text == error.name or text.startswith(error.name + ".")):
            raise UsageError(
                f"{name!a}: there is no module {error.name!r}; start the worker where it can be imported, or set PYTHONPATH"
            ) from None
        raise


def _file(path: str, name: str) -> ModuleType:
    """Import a file, as a script is: its directory comes first on the path. Not as ``__main__``: its guard holds."""
    path = os.path.abspath(path)
    module_name = os.path.splitext(os.path.basename(path))[0]
    known = sys.modules.get(module_name)
    if known is not None and getattr(known, "__file__", None) == path:
        return known
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None or not os.path.exists(path):
        raise UsageError(f"{name!a}: there is no file {path}; write package.module:function or file.py:function")
    sys.path.insert(0, os.path.dirname(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


def name_of(handler: object) -> str:
    """The name under which another process can load a handler. Raises UsageError if it has none."""
    attribute = getattr(handler, "__qualname__", "")
    module = getattr(handler, "__module__", "")
    if not attribute:  # an object, not a function or class: by the variable that holds it
        module, attribute = _variable_of(handler)
    if not module or not attribute or "<" in attribute:
        raise UsageError(
            f"{handler!r} cannot be loaded by another process; define it at the top of a module, or use threads="
        )
    if _resolved(module, attribute) != handler:
        raise UsageError(
            f"{handler!r} cannot be loaded by another process: {module}:{attribute} is something else; "
            f"use a function at the top of a module, or threads="
        )
    main = sys.modules.get("__main__") if module == "__main__" else None
    if main is None:
        return f"{module}:{attribute}"
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.module
        return f"{spec.name}:{attribute}"
    path = getattr(main, "__file__", None)
    if path is None:
        raise UsageError(f"{handler!r} was made in an interactive session; put it in a module, or use threads=")
    return f"{os.path.abspath(path)}:{attribute}"


def _resolved(module: str, attribute: str) -> object:
    try:
        return operator.attrgetter(attribute)(sys.modules[module])
    except (KeyError, AttributeError):
        return None


def _variable_of(value: object) -> tuple[str, str]:
    for name, module in list(sys.modules.items()):
        for attribute, held in list(getattr(module, "__dict__", {}).items()):
            if held is value:
                return name, attribute
    return "", ""
