"""What happens when a checkpoint is loaded into a layout, a model class or the place of another checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ckptconv.auditing import checkpoints, layouts, reasons
from ckptconv.auditing.diagnosis import Diagnosis, advice, diagnoses
from ckptconv.auditing.scene import Scene
from ckptconv.auditing.target import Reason, Shape
from ckptconv.auditing.ties import Tied, ties
from ckptconv.containers.checkpoint import Checkpoint
from ckptconv.containers.open import open_checkpoint
from ckptconv.containers.read import Reader
from ckptconv.detect import Detected, detect, named, require_state_dict, shapes
from ckptconv.errors import Damaged, NotACheckpoint, WrongUse
from ckptconv.smallfiles import read_json
from ckptconv.tables.candidates import candidates
from ckptconv.tables.catalog import Tables, tables
from ckptconv.tables.fit import RECOGNISED, Fit, Shapes
from ckptconv.text import printable


@dataclass(frozen=True)
class Misfit:
    """A key that one side has and the other hasn't, why, and whether that is as it should be."""

    key: str
    reason: str
    expected: bool


@dataclass(frozen=True)
class Mismatched:
    """A key that both have, in another shape (lists of sizes) or dtype (its name)."""

    key: str
    got: tuple[int, ...] | str
    wanted: tuple[int, ...] | str
    reason: str
    expected: bool


@dataclass(frozen=True)
class Audit:
    """What `audit` says. Names are the target's; of unexpected and ignored keys, the checkpoint's.

    path, against: as given. layout: the checkpoint's, or None. target, kind: what it was held against: a layout, a
    class or a checkpoint. loader: what would load it (`transformers 5.23.0`), where it is a class.
    keys: how many the checkpoint has. ignored: keys that no loader complains about. dtypes: keys that the other
    checkpoint has in another dtype. diagnoses: what is wrong as a whole. advice: what to do, "" for
    nothing.
    """

    path: str
    against: str
    layout: str | None
    target: str
    kind: str
    loader: str
    keys: int
    missing_keys: tuple[Misfit, ...]
    unexpected_keys: tuple[Misfit, ...]
    mismatched_keys: tuple[Mismatched, ...]
    dtypes: tuple[Mismatched, ...]
    tied: tuple[Tied, ...]
    ignored: tuple[Misfit, ...]
    diagnoses: tuple[Diagnosis, ...]
    advice: str
    notes: tuple[str, ...]

    @property
    def fitting(self) -> int:
        """How many of the checkpoint's keys the target takes, in the same shape."""
        return max(0, self.keys - len(self.unexpected_keys) - len(self.mismatched_keys) - len(self.ignored))

    @property
    def verdict(self) -> str:
        """`exact`, `as_expected` or `does_not_fit`."""
        differences = (*self.missing_keys, *self.unexpected_keys)
        changed, tied = (*self.mismatched_keys, *self.dtypes), self.tied
        if self.diagnoses or not all(each.expected for told in (differences, changed, tied) for each in told):
            return "does_not_fit"
        return "as_expected" if differences or changed else "exact"


def audit(
    source: Path | str,
    against: Path | str,
    class_name: str | None = None,
    trust_remote_code: bool = False,
    table: Path | None = None,
    allow_unknown: bool = False,
) -> Audit:
    """Hold the checkpoint at `source` against a target, by keys and shapes.

    against: a layout (`xlmr/hf`, `hf`), an HF directory or config.json, or another checkpoint. class_name: a class of
    transformers for the config, by default the first of its `architectures`; trust_remote_code: it may be custom code
    that lies beside the config. Tensors are read only where two that the target ties have to be compared.
    allow_unknown: as for `open_checkpoint`.
    Raises a CkptconvError for what can't be read or built, and WrongUse for a class without a config.
    """
    known = tables(table)
    checkpoint = open_checkpoint(Path(source), allow_unknown)
    require_state_dict(checkpoint)
    seen = _Source(printable(Path(source).name or str(source)), checkpoint, detect(checkpoint, known), known)
    if (layout := _layout_name(against, known)) is not None:
        setting = _against_layout(seen, layout)
    elif (config := _config_path(Path(against))) is not None:
        setting = _against_class(seen, config, class_name, trust_remote_code)
    else:
        setting = _against_checkpoint(seen, open_checkpoint(against, allow_unknown), Path(against))
    if class_name is not None and setting.scene.target.kind != "class":
        raise WrongUse("--class needs a config: a Hugging Face directory or a config.json as the target.")
    return _report(str(source), str(against), seen, setting)


@dataclass(frozen=True)
class _Source:
    """The checkpoint that is audited. name: for messages."""

    name: str
    checkpoint: Checkpoint
    detected: Detected
    tables: Tables

    @property
    def entry(self) -> str:
        """Where its state dict lies."""
        return _entry(self.checkpoint, self.detected)


@dataclass(frozen=True)
class _Setting:
    """The scene, and what only one kind of target has."""

    scene: Scene
    entry: str
    dtypes: tuple[Mismatched, ...] = ()
    notes: tuple[str, ...] = ()


def _entry(checkpoint: Checkpoint, detected: Detected) -> str:
    """The state dict of the layout that was found, else the largest."""
    if detected.fit is not None:
        return detected.fit.entry
    return max(checkpoint.entries, key=lambda name: len(checkpoint.entries[name]))


def _layout_name(against: Path | str, known: Tables) -> str | None:
    """The layout that `against` names. A text that names one is one, even where there is a file of that name."""
    name = str(against)
    known_so = (name in (each.name, f"{table.family}/{each.name}") for table in known for each in table.layouts)
    return name if any(known_so) and (isinstance(against, str) or not against.exists()) else None


def _config_path(against: Path) -> Path | None:
    """The config.json of a target that has one; None for a checkpoint. Raises NotACheckpoint where nothing is there."""
    if not against.exists():
        raise NotACheckpoint(
            f"{printable(str(against))} is neither a layout (see ckptconv tables) nor a file or directory; a model of "
            "the Hugging Face Hub has to be downloaded first.",
            against,
        )
    if against.is_dir():
        return against / "config.json" if (against / "config.json").is_file() else None
    return against if against.suffix == ".json" and not against.name.endswith(".index.json") else None


def _against_layout(seen: _Source, layout: str) -> _Setting:
    found = seen.detected.fit
    if found is not None and layout in [each.name for each in found.table.layouts]:
        layout = f"{found.table.family}/{layout}"
    fit = found if found is not None and found.name == layout else named(seen.checkpoint, seen.tables, layout)
    dims = found.dims if found and found.table is fit.table else fit.dims
    target = layouts.target(fit, dims)
    source = shapes(seen.checkpoint.entries[fit.entry])
    scene = Scene(seen.name, source, found or fit, target, layouts.lists(fit, target, source))
    return _Setting(scene, fit.entry, notes=() if scene.wrapper else fit.spelled.notes)


def _against_class(seen: _Source, config: Path, class_name: str | None, trust_remote_code: bool) -> _Setting:
    from ckptconv.auditing import models

    document = read_json(config)
    if document is None:
        raise NotACheckpoint(f"{printable(str(config))} is no regular file; expected a config.json.", config)
    model = models.build(config, document, class_name, trust_remote_code)
    target = models.target(model)
    whole = "" if target.body else target.base  # a bare model's names may be those of another layout
    named_whole = {whole + key: shape for key, shape in target.shapes.items()}
    target = replace(target, fit=_fit_of(named_whole, seen.tables))
    source = shapes(seen.checkpoint.entries[seen.entry])
    lists = models.lists(model, source, target)
    notes = target.notes
    if seen.entry:
        notes += (f"the state dict lies under `{printable(seen.entry)}`: from_pretrained wants it at the top level",)
    if seen.detected.stranger:
        notes += (f"{seen.name} is {seen.detected.stranger.name}",)
    scene = Scene(seen.name, source, seen.detected.fit, target, lists, _claims(seen.checkpoint.path.parent))
    return _Setting(scene, seen.entry, notes=notes)


def _against_checkpoint(seen: _Source, other: Checkpoint, against: Path) -> _Setting:
    require_state_dict(other)
    detected = detect(other, seen.tables)
    theirs = other.entries[_entry(other, detected)]
    ours = seen.checkpoint.entries[seen.entry]
    target = checkpoints.target(printable(str(against)), theirs, detected.fit)
    scene = Scene(seen.name, shapes(ours), seen.detected.fit, target, checkpoints.lists(ours, target))
    changed = (
        _mismatched(key, got, wanted, why) for key, (got, wanted, why) in checkpoints.dtypes(ours, theirs).items()
    )
    return _Setting(scene, seen.entry, dtypes=tuple(changed))


def _fit_of(keys: Shapes, known: Tables) -> Fit | None:
    """The layout that a class's keys are in."""
    best = next(iter(candidates(known, {"": keys})), None)
    return best if best and best.coverage > RECOGNISED else None


def _claims(folder: Path) -> frozenset[str]:
    """The classes that the config beside the checkpoint names, as far as there is a readable one."""
    try:
        named_there = (read_json(folder / "config.json") or {}).get("architectures")
    except Damaged:
        return frozenset()
    return frozenset(filter(lambda name: isinstance(name, str), named_there if isinstance(named_there, list) else ()))


def _report(path: str, against: str, seen: _Source, setting: _Setting) -> Audit:
    scene, checkpoint = setting.scene, seen.checkpoint
    lists, state_dict = scene.lists, checkpoint.entries[setting.entry]
    with Reader(checkpoint) as reader:
        tied = tuple(ties(scene, state_dict, reader))
    missing = tuple(_misfit(key, reasons.missing(scene, key)) for key in lists.missing)
    only_layers = all(each.expected or scene.stack_of(each.key) for each in missing)
    report = Audit(
        path=path,
        against=against,
        layout=seen.detected.fit.name if seen.detected.fit else None,
        target=scene.target.name,
        kind=scene.target.kind,
        loader=scene.target.loader,
        keys=len(state_dict),
        missing_keys=missing,
        unexpected_keys=tuple(_misfit(key, reasons.unexpected(scene, key)) for key in lists.unexpected),
        mismatched_keys=tuple(
            _mismatched(key, got, wanted, reasons.mismatched(scene, key, got, wanted))
            for key, (got, wanted) in lists.mismatched.items()
        ),
        dtypes=setting.dtypes,
        tied=tied,
        ignored=tuple(Misfit(key, reason, True) for key, reason in lists.ignored.items()),
        diagnoses=tuple(diagnoses(scene, path, seen.detected.stranger, only_layers)),
        advice="",
        notes=(*checkpoint.notes, *setting.notes, *_besides(checkpoint, setting.entry)),
    )
    return replace(report, advice=_advice(report, scene))


def _misfit(key: str, reason: Reason) -> Misfit:
    return Misfit(key, reason.text, reason.expected)


def _mismatched(key: str, got: Shape | str, wanted: Shape | str, reason: Reason) -> Mismatched:
    return Mismatched(key, got, wanted, reason.text, reason.expected)


def _besides(checkpoint: Checkpoint, entry: str) -> Iterator[str]:
    """What else the file holds, in one sentence."""
    names = [name for name in checkpoint.entries if name != entry]
    names += [name for name, node in checkpoint.other.items() if node is not None]
    if names:
        states = ("last_optimizer_state", "optimizer", "optimizer_state_dict", "optimizer_states")
        shown = ", ".join(printable(name, 60) + " (optimizer state)" * (name in states) for name in names[:8])
        more = f" and {len(names) - 8:,} more" if len(names) > 8 else ""
        yield f"besides the state dict, and no part of the model: {shown}{more}"


def _advice(report: Audit, scene: Scene) -> str:
    """What to do, by the verdict."""
    if report.verdict == "does_not_fit":
        if report.diagnoses:
            return report.diagnoses[0].advice
        lists = (*report.missing_keys, *report.unexpected_keys)
        if scene.lists.mismatched or not all(each.expected for each in lists):
            return advice(scene)
        return "set tie_word_embeddings to false in the config"
    heads = dict.fromkeys(scene.of_target(each.key) for each in report.missing_keys)
    new = ", ".join(printable(head, 60) for head in heads if head)
    return f"train what is new before you rely on it: {new}" if new and report.kind == "class" else ""
