"""Both halves, one after the other: the source runs, its outputs are kept, it is freed, and the target runs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ckptconv.errors import CkptconvError
from ckptconv.forward.batches import LONGEST, SPECIAL, Batch, batches, in_languages
from ckptconv.forward.compare import LOGITS, agreement, alike, layers
from ckptconv.forward.config import config
from ckptconv.forward.model import Forward, Outputs, Subject
from ckptconv.forward.quiet import quiet
from ckptconv.forward.tensors import main_dtype
from ckptconv.tables.expand import names_of
from ckptconv.text import printable

_TOLERANCES = {"F64": 2e-5, "F32": 2e-5, "F16": 2e-2, "BF16": 1e-1}
_NEW_TOKENS = 20
_DECODED = 6
# family → (module, function) that runs it, by whether the layout is transformers'
_FAIRSEQ, _HF = "in_fairseq", "in_transformers"
_FAMILIES = {
    "xlmr": {False: "roberta", True: "xlmr"},
    "xmod": {False: "xmod", True: "xmod"},
    "deltalm": {False: "deltalm", True: "deltalm"},
    "xlm": {True: "xlm"},  # facebookresearch/XLM is no package that could be installed
}
# Layouts that nothing here runs.
_WITHOUT = {
    "xlmr/ernie_m": "transformers has no ErnieM since 5.0",
    "xlmr/ernie_m-paddle": "Paddle's models are not run here",
}
_NEEDED = {_FAIRSEQ: (("torch", "fairseq"), "fairseq"), _HF: (("torch", "transformers"), "hf")}
# Dims in which two halves must agree, or they are two models. Rows of vocabularies and positions may be cut.
_SAME = ("d", "layers", "ffn", "encoder_layers", "decoder_layers", "tgt_ffn", "prenorm", "adapter")


@dataclass(frozen=True)
class _Task:
    """What both halves do. rows: of the logits that both have. new: tokens to be decoded at most."""

    batches: tuple[Batch, ...]
    rows: int
    sentences: tuple[tuple[int, ...], ...]
    new: int

    @property
    def steps(self) -> int:
        """Of one half: loading, each batch, and decoding."""
        return len(self.batches) + 2


class _NotRun(Exception):
    """A half that could not run: the sentence."""


def run_both(
    source: Subject, target: Subject, progress: Callable[[int, int], None] = lambda done, total: None
) -> Forward:
    """Run both checkpoints on the same batches and compare every layer, the logits and greedy decoding.

    progress: called with (steps done, steps in all). Never raises for what a checkpoint holds: that is told in
    `not_run`.
    """
    reasons = (*_impossible("source", source), *_impossible("target", target))
    if reasons:
        return Forward("", "", 0, (), None, None, 0.0, reasons, None)
    differing = _differing(source, target)
    tolerance, note = _tolerance(source, target)
    if differing:
        return Forward("", "", 0, (), None, None, tolerance, tuple(differing), False)
    with quiet():
        return _compared(source, target, tolerance, note, progress)


def _compared(
    source: Subject, target: Subject, tolerance: float, note: str, progress: Callable[[int, int], None]
) -> Forward:
    a: Outputs | None = None
    sentences = 0
    try:
        task = _task(source, target)
        total, sentences = 2 * task.steps, sum(len(batch.rows) for batch in task.batches)
        a = _run("source", source, target, task, lambda done: progress(done, total))
        gc.collect()  # the source's model, where something in it refers back to it
        b = _run("target", target, source, task, lambda done: progress(task.steps + done, total))
    except _NotRun as reason:
        ran = a.engine if a else ""
        return Forward(ran, "", sentences if a else 0, (), None, None, tolerance, (str(reason),), None)
    return _verdict(source, target, a, b, task, tolerance, note)


def _verdict(
    source: Subject, target: Subject, a: Outputs, b: Outputs, task: _Task, tolerance: float, note: str
) -> Forward:
    found, notes = layers(a, b)
    passed = bool(found) and all(each.max_abs <= tolerance * max(1.0, each.scale) for each in found)
    top1, greedy = None, None
    told = [note, *dict.fromkeys((*a.notes, *b.notes)), *_cut(source, target), *notes]
    logits = next((each for each in found if each.name == LOGITS), None)
    if logits:
        bound = tolerance * max(1.0, logits.scale)
        top1, missed = agreement(a, b, bound)
        same, parted = alike(a.decoded, b.decoded, bound)
        greedy = (same, len(a.decoded)) if a.decoded else None
        if top1 < 1 or (greedy and same < greedy[1]):
            told.append(
                f"{missed} positions and {parted} decoded sentences differ where the source's two best logits are "
                f"more than {bound:.2g} apart; others are near ties, which count as alike"
            )
        if _dtype(source) == _dtype(target):
            passed = passed and not missed and not parted
    count = sum(len(batch.rows) for batch in task.batches)
    return Forward(a.engine, b.engine, count, found, top1, greedy, tolerance, (), passed, tuple(told))


def _run(half: str, subject: Subject, other: Subject, task: _Task, progress: Callable[[int], None]) -> Outputs:
    """One half, from loading to outputs; its model is freed when it returns. Raises _NotRun."""
    other_half = "target" if half == "source" else "source"
    try:
        told = config(subject, other, half, other_half)
        module = import_module(f"ckptconv.forward.{_engine(subject)}")
        engine = getattr(module, _FAMILIES[subject.found.table.family][_engine(subject) == _HF])(
            subject, told, task.rows
        )
        progress(1)
        import torch

        parts: dict[str, list[Any]] = {}
        with torch.inference_mode():
            for number, batch in enumerate(task.batches):
                for name, values in engine.run(batch).items():
                    parts.setdefault(name, []).append(values)
                progress(2 + number)
            decoded = engine.decode(task.sentences, task.new) if engine.decode else ()
        progress(task.steps)
        values = {name: torch.cat(each) for name, each in parts.items()}
        return Outputs(
            engine.name, values, tuple(decoded), (*told.notes, *(f"{half}: {note}" for note in engine.notes))
        )
    except CkptconvError as problem:
        raise _NotRun(_sentence(half, problem.message)) from None
    except Exception as problem:  # whatever an engine makes of this checkpoint
        raise _NotRun(_sentence(half, f"{_engine_name(subject)} raised {_one_line(problem)}")) from None


def _impossible(half: str, subject: Subject) -> list[str]:
    """Why a half can't run, as far as that is known before anything is read."""
    fit = subject.fit
    if fit is not None and fit.name in _WITHOUT:
        return [_sentence(half, _WITHOUT[fit.name])]
    if fit is None:
        return [_sentence(half, f"its layout is not known; ckptconv runs {', '.join(_FAMILIES)}")]
    if _engine(subject) == _FAIRSEQ and False not in _FAMILIES.get(fit.table.family, {False: ""}):
        return [_sentence(half, f"fairseq has no {fit.name}; only transformers' side of it can be run")]
    if fit.table.family not in _FAMILIES:
        return [_sentence(half, f"there is no engine for {fit.name}; {', '.join(_FAMILIES)} have some")]
    if not fit.exact:
        return [_sentence(half, f"not all of it fits {fit.name}; `ckptconv inspect --tensors` shows what doesn't")]
    names, extra = _NEEDED[_engine(subject)]
    for name in names:
        try:
            with quiet():
                import_module(name)
        except ImportError:
            return [_sentence(half, f"{name} is not installed; pip install 'ckptconv[{extra}]'")]
        except Exception as problem:  # whatever a broken installation raises
            return [
                _sentence(half, f"{name} can't be imported ({_one_line(problem)}); pip install 'ckptconv[{extra}]'")
            ]
    return []


def _differing(source: Subject, target: Subject) -> list[str]:
    """Why the two can't be one model."""
    a, b = source.found, target.found
    if a.table.family != b.table.family:
        return [f"nothing was run: the source is {a.name}, the target {b.name}, which are different models"]
    odd = [
        f"{name} = {a.dims.get(name)} and {b.dims.get(name)}" for name in _SAME if a.dims.get(name) != b.dims.get(name)
    ]
    return (
        [f"nothing was run: source and target differ in {', '.join(odd)}, so they are different models"] if odd else []
    )


def _task(source: Subject, target: Subject) -> _Task:
    """Ids that both vocabularies have, without the special ones, and lengths that both sides' positions allow."""
    decoder = "tgt_vocab" in source.found.dims
    appended = len(source.found.table.words.appended)
    rows = _least("vocab", source, target)
    target_rows = _least("tgt_vocab", source, target) if decoder else rows
    if min(rows - appended, target_rows) <= SPECIAL:
        raise _NotRun("neither half was run: the vocabulary has none but special tokens")
    longest = min(LONGEST, _least("positions", source, target) - 2)
    longest_target = min(_NEW_TOKENS, _least("tgt_positions", source, target) - 2) if decoder else 0
    if longest < 2 or (decoder and longest_target < 2):
        raise _NotRun("neither half was run: the positions are too few for a sentence")
    ids = range(SPECIAL, rows - appended)
    made = batches(ids, range(SPECIAL, target_rows) if decoder else None, longest, longest_target, not decoder)
    made = in_languages(made, _languages(source, target))
    sentences = [row for batch in made for row in batch.rows if len(row) > 1][:_DECODED]
    return _Task(made, target_rows, tuple(sentences), longest_target)


def _languages(source: Subject, target: Subject) -> list[str]:
    """What a `select` line of the table lets choose, as far as both sides have it."""
    places = [line.placeholder for line in source.found.table.selects]
    theirs = {name for place in places for name in names_of(target.found.dims, place)}
    return [name for place in places for name in names_of(source.found.dims, place) if name in theirs]


def _least(dim: str, *subjects: Subject) -> int:
    return min(subject.found.sizes[dim] for subject in subjects)


def _cut(source: Subject, target: Subject) -> list[str]:
    a, b = source.found.sizes, target.found.sizes
    names = [name for name in ("vocab", "tgt_vocab", "positions", "tgt_positions") if a.get(name) != b.get(name)]
    shown = ", ".join(f"{name} = {a.get(name):,} and {b.get(name):,}" for name in names)
    return [f"resized: {shown}; compared over the rows that both have"] if names else []


def _tolerance(source: Subject, target: Subject) -> tuple[float, str]:
    """Both run in float32 whatever they hold, so the dtype matters only where the conversion computed in it: it cast,
    or added one tensor to another (a `fold`)."""
    a, b = _dtype(source), _dtype(target)
    here, there = source.found.layout.name, target.found.layout.name
    folded = here != there and any(line.layout == here for line in source.found.table.folds)
    tolerance = _TOLERANCES["F32"] if a == b and not folded else max(_TOLERANCES[a], _TOLERANCES[b])
    holds = f"both hold {a}" if a == b else f"the source holds {a}, the target {b}"
    return tolerance, f"tolerance {tolerance:g} of a layer's largest value (or of 1): {holds}; both ran in float32"


def _dtype(subject: Subject) -> str:
    return main_dtype(subject.checkpoint.entries[subject.found.entry])


def _engine(subject: Subject) -> str:
    return _HF if subject.found.layout.container == "safetensors" else _FAIRSEQ


def _engine_name(subject: Subject) -> str:
    return "transformers" if _engine(subject) == _HF else "fairseq"


def _sentence(half: str, reason: str) -> str:
    return f"the {half} half could not run: {reason}"


def _one_line(problem: BaseException) -> str:
    return printable(" ".join(f"{type(problem).__name__}: {problem}".split()).rstrip(": ."), 300)
