"""What goes into a comparison of two forward passes, and what comes out."""

# torch is imported in functions only: its types are named, not loaded.
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckptconv.containers.checkpoint import Checkpoint
from ckptconv.forward.batches import Batch
from ckptconv.tables.fit import Fit


@dataclass(frozen=True)
class Subject:
    """One checkpoint, opened. fit: None where its layout is not known; documents: its config, as
    `conversion.prepare.source_documents` reads it."""

    checkpoint: Checkpoint
    fit: Fit | None
    documents: Mapping[str, Any]

    @property
    def found(self) -> Fit:
        """The layout of a checkpoint whose layout is known."""
        assert self.fit is not None
        return self.fit


@dataclass(frozen=True)
class Layer:
    """How far the two halves are apart at one place.

    name: `embeddings`, `layers.0` …, with `encoder.` or `decoder.` before it where there are two; `logits`; `pooler`;
    `head NAME`.
    The last layer of a side is taken after its final norm, where there is one.
    max_abs: largest |a - b| over all positions that are no padding, in all batches; infinite where one is NaN.
    scale: largest |a|.
    """

    name: str
    max_abs: float
    scale: float


@dataclass(frozen=True)
class Forward:
    """The verdict on two forward passes.

    source_engine, target_engine: software, version and class; "" for a half that did not run.
    sentences: how many were run. layers: in the order of computation, those that both halves have.
    top1: the share of positions whose most likely id agrees; None without logits.
    greedy: sentences decoded alike, of how many; None where nothing is decoded.
    tolerance: max_abs <= tolerance * max(1, scale) passes.
    not_run: one sentence each: which half could not run and why, and what to do.
    passed: None where nothing could be compared.
    notes: one sentence each on how it was compared: the tolerance, what was assumed, cut or left out, near ties.
    """

    source_engine: str
    target_engine: str
    sentences: int
    layers: tuple[Layer, ...]
    top1: float | None
    greedy: tuple[int, int] | None
    tolerance: float
    not_run: tuple[str, ...]
    passed: bool | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Engine:
    """A model in eval mode, behind the same two calls whichever software runs it.

    name: software, version, class. run: batch → name of a place → values [positions or sentences, width], in the order
    of computation, without padding. decode: sentences, and how many new tokens → the decoded; None for encoders.
    """

    name: str
    run: Callable[[Batch], dict[str, Any]]
    decode: Callable[[Sequence[Sequence[int]], int], list[Decoded]] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decoded:
    """A sentence decoded greedily. ids: up to and including `</s>`.

    behind: for each step, by how much the logits of the next best ids are behind that of the chosen one.
    """

    ids: tuple[int, ...]
    behind: tuple[Mapping[int, float], ...]


@dataclass(frozen=True)
class Outputs:
    """Everything that one half computed, on the CPU in float32. values: as `Engine.run`'s, of all batches."""

    engine: str
    values: Mapping[str, Any]
    decoded: tuple[Decoded, ...]
    notes: tuple[str, ...]
