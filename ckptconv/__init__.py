"""ckptconv: convert, inspect and audit checkpoints of multilingual Transformers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptconv.commands.audit import Audit, audit
    from ckptconv.commands.convert import Conversion, Options, convert
    from ckptconv.commands.diff import Difference, diff
    from ckptconv.commands.inspect import Inspection, inspect
    from ckptconv.commands.validate import Validation, validate
    from ckptconv.commands.verify import Verification, verify

__version__ = "0.1.0"
__all__ = [
    "Audit",
    "Conversion",
    "Difference",
    "Inspection",
    "Options",
    "Validation",
    "Verification",
    "__version__",
    "audit",
    "convert",
    "diff",
    "inspect",
    "validate",
    "verify",
]

_HOMES = {
    "Audit": "ckptconv.commands.audit",
    "audit": "ckptconv.commands.audit",
    "Conversion": "ckptconv.commands.convert",
    "Options": "ckptconv.commands.convert",
    "convert": "ckptconv.commands.convert",
    "Difference": "ckptconv.commands.diff",
    "diff": "ckptconv.commands.diff",
    "Inspection": "ckptconv.commands.inspect",
    "inspect": "ckptconv.commands.inspect",
    "Validation": "ckptconv.commands.validate",
    "validate": "ckptconv.commands.validate",
    "Verification": "ckptconv.commands.verify",
    "verify": "ckptconv.commands.verify",
}


def __getattr__(name: str) -> Any:
    """The commands, imported when first used: `import ckptconv` costs nothing."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ckptconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
