"""Nothing on the terminal while other software works: what there is to say is in the report."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Log messages, warnings and progress bars off."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def no_bars() -> Iterator[None]:
    """transformers' progress bars off."""
    from transformers.utils import logging as theirs

    shown = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            theirs.enable_progress_bar()


@contextmanager
def same_path() -> Iterator[None]:
    """sys.path as it was, whatever is imported."""
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def only(projection: Any, rows: int) -> Iterator[None]:
    """The logits of `projection` (a torch module) beyond the first `rows` are -inf, so that they are never chosen."""
    import torch

    beyond = torch.arange(rows, projection.weight.shape[0])

    def cut(_: Any, __: Any, logits: Any) -> Any:
        return logits.index_fill(-1, beyond, float("-inf"))

    hook = projection.register_forward_hook(cut)
    try:
        yield
    finally:
        hook.remove()
