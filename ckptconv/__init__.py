"""ckptconv: convert, inspect and audit checkpoints of multilingual Transformers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptconv.commands.convert import Conversion, Options, convert
    from ckptconv.commands.inspect import Inspection, inspect

__version__ = "0.1.0"
__all__ = ["Conversion", "Inspection", "Options", "__version__", "convert", "inspect"]

_HOMES = {
    "Conversion": "ckptconv.commands.convert",
    "Options": "ckptconv.commands.convert",
    "convert": "ckptconv.commands.convert",
    "Inspection": "ckptconv.commands.inspect",
    "inspect": "ckptconv.commands.inspect",
}


def __getattr__(name: str) -> Any:
    """The commands, imported when first used: `import ckptconv` costs nothing."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ckptconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
