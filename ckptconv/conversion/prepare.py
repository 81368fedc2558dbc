"""Everything of a conversion but the writing: detect, read the config, size, plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptconv.containers.checkpoint import PADDLE_NAMES, Checkpoint, StateDict, shared_views
from ckptconv.containers.inert import Dict
from ckptconv.containers.open import open_checkpoint
from ckptconv.containers.plain import is_plain, plain
from ckptconv.containers.read import Reader, check_growth
from ckptconv.conversion.companions import companion_files, companions, tokenizer_beside
from ckptconv.conversion.extras import extras
from ckptconv.conversion.facts import read_facts
from ckptconv.conversion.labels import read_labels
from ckptconv.conversion.languages import read_languages
from ckptconv.conversion.rows import Asked, check_vocabulary, vocabulary_dims, wanted_rows
from ckptconv.detect import fitting, require_state_dict, state_dict_of
from ckptconv.dtypes import BY_NAME, DType
from ckptconv.errors import CkptconvError, DoesNotFit, UnknownLayout, VocabularyMismatch, WrongUse
from ckptconv.plan import (
    NONE,
    Plan,
    Step,
    Told,
    choose,
    make_plan,
    refused_drops,
    resized_dims,
    respelled,
    same_plan,
    select,
    ties,
)
from ckptconv.smallfiles import read_json
from ckptconv.tables.catalog import layout_named, tables
from ckptconv.tables.expand import Dims
from ckptconv.tables.expressions import evaluate
from ckptconv.tables.fields import FieldValue, Resolved, Sides, resolve, stated
from ckptconv.tables.fit import Fit
from ckptconv.tables.model import Layout, Note, Table
from ckptconv.text import printable

if TYPE_CHECKING:
    from ckptconv.conversion.pieces import Vocabulary

_MEANINGLESS_WITH_SAME = {
    "layout_from": "from",
    "dictionaries": "dict",
    "spm": "spm",
    "vocab": "vocab",
    "max_positions": "max-positions",
    "table": "table",
    "set": "set",
    "head": "head",
    "labels": "labels",
    "create": "create",
    "languages": "languages",
    "codes": "codes",
}
_DTYPES = {"keep": None, "fp32": BY_NAME["F32"], "fp16": BY_NAME["F16"], "bf16": BY_NAME["BF16"]}


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    to: `family/layout`, a layout alone, or `same`. layout_from: the source's layout, where detection is overruled.
    dtype: keep, fp32, fp16 or bf16, for floating tensors. max_shard_size: bytes.
    dictionaries: fairseq dict.txt files, source language first. vocab, max_positions: cut or extend to so many.
    set: config fields that no tensor shows, by any layout's name for them. head: which head, where a target holds one:
    its name, `lm_head` or `none`. labels: a file with the names of a classification head's classes. create: options of
    the table to make up, such as `pooler`. allow_unknown: as for `open_checkpoint`.
    languages: those whose adapters are kept, () for all. codes: the BPE codes of a vocabulary of byte pairs. receipt:
    leave a conversion.json (`ckptconv.receipts`).
    """

    to: str
    layout_from: str | None = None
    dtype: str = "keep"
    max_shard_size: int = 5_000_000_000
    dictionaries: tuple[Path, ...] = ()
    spm: Path | None = None
    vocab: int | None = None
    max_positions: int | None = None
    table: Path | None = None
    set: Mapping[str, Any] = field(default_factory=dict)
    overwrite: bool = False
    head: str | None = None
    labels: Path | None = None
    create: tuple[str, ...] = ()
    allow_unknown: bool = False
    languages: tuple[str, ...] = ()
    codes: Path | None = None
    receipt: bool = True

    def __post_init__(self) -> None:
        """Paths may be given as text. Raises WrongUse for values that mean nothing."""
        object.__setattr__(self, "dictionaries", tuple(map(Path, self.dictionaries)))
        for name in ("spm", "table", "labels", "codes"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(value))
        if self.dtype not in _DTYPES:
            raise WrongUse(f"dtype {self.dtype!r}; expected one of {', '.join(_DTYPES)}.")
        for name, least in (("vocab", 5), ("max_positions", 1), ("max_shard_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise WrongUse(f"{name} = {value}; expected at least {least}.")
        if self.to == "same":
            given = [name for name in _MEANINGLESS_WITH_SAME if getattr(self, name)]
            if given:
                options = ", ".join("--" + _MEANINGLESS_WITH_SAME[name] for name in given)
                raise WrongUse(f"{options} can't go with --to same, which keeps every key and every row as it is.")


@dataclass(frozen=True)
class Prepared:
    """A conversion that is ready to be written: everything is checked, nothing is written.

    table, target: the layout to be written; None where the keys stay as they are.
    extras: the small files that complete a directory, by name. companions: what was read besides the checkpoint.
    entries: what a checkpoint holds besides its state dict and its config.
    """

    checkpoint: Checkpoint
    entry: str
    table: Table | None
    target: Layout | None
    plan: Plan
    config: Resolved
    extras: Mapping[str, bytes]
    companions: tuple[Path, ...]
    options: Options
    notes: tuple[str, ...]
    entries: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state_dict(self) -> StateDict:
        """The source's tensors."""
        return self.checkpoint.entries[self.entry]


def prepare(source: Path, options: Options) -> Prepared:
    """Check and plan a conversion. Raises a CkptconvError for whatever stands in the way."""
    checkpoint = open_checkpoint(source, options.allow_unknown)
    require_state_dict(checkpoint)
    prepared = (
        _prepare_same(checkpoint, source, options)
        if options.to == "same"
        else _prepare_layout(checkpoint, source, options)
    )
    sources = {key for step in prepared.plan.steps if step.tied_to is None for key in step.sources}
    check_growth(checkpoint, [prepared.state_dict[key] for key in sources])
    return prepared


def _prepare_layout(checkpoint: Checkpoint, source: Path, options: Options) -> Prepared:
    known = tables(options.table)
    target_table, target = layout_named(options.to, known)
    fit = fitting(checkpoint, known, options.layout_from)
    _require_reachable(checkpoint, fit, target_table, target)
    if options.head in fit.could_be or options.head not in (None, NONE, *fit.dims):
        fit = fitting(checkpoint, known, fit.name, options.head or "")
    elif fit.could_be and options.head is None:
        raise DoesNotFit(
            f"{printable(checkpoint.path.name)} is {fit.name} with a head that its keys don't tell: it could be "
            f"{' or '.join(fit.could_be)}. Put the config.json that it belongs to beside it, or say which with --head.",
            checkpoint.path,
        )
    try:
        return _prepare(checkpoint, fit, target, options, source.is_dir())
    except CkptconvError as problem:
        problem.path = problem.path or str(checkpoint.path)
        raise


def _require_reachable(checkpoint: Checkpoint, fit: Fit, table: Table | None, target: str) -> None:
    names = [layout.name for layout in fit.table.layouts]
    name = printable(checkpoint.path.name)
    if (table is not None and table.family != fit.table.family) or target not in names:
        wanted = f"{table.family}/{target}" if table else target
        others = ", ".join(f"{fit.table.family}/{each}" for each in names if each != fit.layout.name)
        about = fit.table.about.get(fit.layout.name)
        raise UnknownLayout(
            f"{name} is {fit.name}{f' ({about})' if about else ''}, which can't become {wanted}; expected {others} or "
            "same.",
            checkpoint.path,
        )
    if target == fit.layout.name and fit.layout.container in checkpoint.container.split():  # `torch zip`, `torchscript`
        raise UnknownLayout(
            f"{name} is in the layout {fit.name} already; to change only its container or dtype, use --to same.",
            checkpoint.path,
        )


def _prepare_same(checkpoint: Checkpoint, source: Path, options: Options) -> Prepared:
    entry = max(checkpoint.entries, key=lambda name: len(checkpoint.entries[name]))
    tensors = checkpoint.entries[entry]
    plan = same_plan(
        {key: (tensor.dtype, tensor.shape) for key, tensor in tensors.items()},
        shared_views(tensors),
        _DTYPES[options.dtype],
    )
    left = [Told(name, "another state dict of the same file") for name in checkpoint.entries if name != entry]
    data = Dict()  # one of all entries, so that together they have the limits of one
    data.pairs = [
        (name, node) for name, node in checkpoint.other.items() if entry and "." not in name and is_plain(node)
    ]
    kept = plain(data)
    left += [Told(name, _why_not_kept(name)) for name in checkpoint.other if name not in kept]
    return Prepared(
        checkpoint,
        entry,
        None,
        None,
        plan._replace(dropped=tuple(left)),
        Resolved(tuple(FieldValue("", name, value, "source") for name, value in kept.items()), (), (), ()),
        companion_files(checkpoint) if source.is_dir() else {},
        (),
        options,
        checkpoint.notes,
    )


def _prepare(checkpoint: Checkpoint, fit: Fit, target: str, options: Options, whole_folder: bool) -> Prepared:
    documents = source_documents(checkpoint, fit)
    languages = [stated(fit.table, fit.layout.name, documents, leaf) for leaf in ("source_lang", "target_lang")]
    beside = companions(checkpoint.path, fit.table.words, options.dictionaries, options.spm, languages)
    rows = wanted_rows(fit, beside, Asked(options.vocab, options.max_positions))
    try:
        check_vocabulary(fit, beside, rows, checkpoint.path)
    except VocabularyMismatch as mismatch:
        if beside.given or whole_folder:
            raise
        # The user named one file; what else lies in its folder may belong to another model.
        beside = replace(beside, dictionaries=(), names=(), spm=None, tokenizer=None, notes=(f"not used: {mismatch}",))
    vocabulary = _vocabulary(checkpoint, fit, options, whole_folder)
    state_dict = state_dict_of(checkpoint, fit)
    with Reader(checkpoint) as reader:
        facts = read_facts(fit, state_dict, reader)
    _require_droppable(checkpoint, fit, refused_drops(fit, facts))
    chosen = choose(fit, target, options.head, options.create)
    chosen = select(fit, chosen, {"languages": options.languages} if options.languages else {})
    chosen = replace(chosen, dims=resized_dims(chosen.dims, rows))
    dtypes = {key: tensor.dtype for key, tensor in state_dict.items()}
    plan = make_plan(fit, target, facts, chosen, dtypes, _DTYPES[options.dtype])
    classes = plan.dims.get("labels", plan.dims.get("tags"))
    labels = read_labels(checkpoint.path.parent, options.labels, documents.get("config.json"), classes)
    spoken = read_languages(fit.table, fit.layout.name, documents, _languages(fit, documents, options))
    sides = Sides(
        table=fit.table,
        source=fit.layout.name,
        target=target,
        before={**fit.dims, **dict.fromkeys(chosen.left, False), **ties(fit, facts, fit.dims)},
        after={
            **chosen.dims,
            **ties(fit, facts, chosen.dims),
            **labels.names,
            **spoken.names,
            "dtype": _main_dtype(plan.steps),
        },
        documents=documents,
        overrides=options.set,
        guesses=beside.languages,
    )
    config = _resolve(checkpoint, sides)
    other = tuple(
        Told(name, _why(name, checkpoint.container))
        for name, node in checkpoint.other.items()
        if name not in documents[""] and name not in fit.table.words.inside and node is not None
    )
    left = tuple(Told(name, "another state dict of the same file") for name in checkpoint.entries if name != fit.entry)
    plan = respelled(plan._replace(dropped=(*plan.dropped, *left, *other)), fit.spelled.original)
    kept = tokenizer_beside(beside, fit.table.words) if target == fit.layout.name else ()
    made = extras(fit.table, target, config, beside, labels, plan.dims, kept, vocabulary)
    found = (*beside.notes, *(vocabulary.notes if vocabulary else ()), *labels.notes, *spoken.notes)
    of_table = tuple(line.text for line in fit.table.notes if _holds(line, fit, target, chosen.dims))
    notes = (*checkpoint.notes, *fit.notes, *found, *config.denied, *config.notes, *made.notes, *of_table)
    configs = (checkpoint.path.parent / name for name, document in documents.items() if name and document)
    beside_it = (*beside.files, *(vocabulary.files if vocabulary else ()))
    read = (*configs, *beside_it, *kept, *((options.labels,) if options.labels else ()))
    layout = fit.table.layout(target)
    return Prepared(
        checkpoint, fit.entry, fit.table, layout, plan, config, made.files, read, options, notes, made.entries
    )


def _holds(line: Note, fit: Fit, target: str, dims: Dims) -> bool:
    """Whether the note goes with this conversion."""
    one = (fit.layout.name in line.layouts) != (target in line.layouts)
    return one and bool(evaluate(line.condition, dims))


def _vocabulary(checkpoint: Checkpoint, fit: Fit, options: Options, whole_folder: bool) -> Vocabulary | None:
    """The words and codes of a family with byte pairs; None for any other."""
    if fit.table.words.bpe:
        from ckptconv.conversion.pieces import read_pieces

        rows = int(fit.dims[vocabulary_dims(fit.table)[0]])
        return read_pieces(checkpoint, fit.table.words, options.codes, rows, whole_folder)
    if options.codes:
        raise WrongUse(f"--codes: the models of {fit.table.family} have no byte pairs.")
    return None


def _languages(fit: Fit, documents: Mapping[str, Any], options: Options) -> Any:
    """How many languages the target's config will say there are."""
    said = options.set.get("n_langs", stated(fit.table, fit.layout.name, documents, "n_langs"))
    return fit.dims.get("langs", 1) if said is None else said


def _main_dtype(steps: tuple[Step, ...]) -> str:
    """torch's name of the dtype that most of the bytes have."""
    sizes: dict[DType, int] = {}
    for step in steps:
        sizes[step.dtype] = sizes.get(step.dtype, 0) + step.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype]).torch


def _why_not_kept(name: str) -> str:
    if name == PADDLE_NAMES:
        return "the parameters' names in Paddle's program, which .pdparams files alone have"
    return "no plain data, or tensors of its own"


def _why(name: str, container: str) -> str:
    if name == PADDLE_NAMES:
        return "the parameters' names in Paddle's program, which nothing needs"
    if container == "torchscript":
        return "an attribute of the scripted code, no part of the state dict"
    return "optimizer state, no part of the model" if "optim" in name else "training state, no part of the model"


def _require_droppable(checkpoint: Checkpoint, fit: Fit, refused: tuple[tuple[str, Any], ...]) -> None:
    for key, drop in refused:
        raise DoesNotFit(
            f"{printable(key)} holds values, but the target has no such key ({fit.table.where(drop.line)}: "
            f"{drop.reason}); expected zeros. Converting would change what the model computes, so nothing was written.",
            checkpoint.path,
        )


def source_documents(checkpoint: Checkpoint, fit: Fit) -> dict[str, Any]:
    """The source's own config: JSON files beside the weights, and the top-level entries that the table reads."""
    column = fit.table.column(fit.layout.name)
    names = [name for each in fit.table.fields if each.kind != "const" and (name := each.names[column])]
    files = {name.document for name in names} - {""}
    documents: dict[str, Any] = {name: read_json(checkpoint.path.parent / name) for name in sorted(files)}
    roots = {path.partition(".")[0] for name in names if not name.document for path in name.paths}
    documents[""] = {root: plain(checkpoint.other[root]) for root in roots if root in checkpoint.other}
    return documents


def _resolve(checkpoint: Checkpoint, sides: Sides) -> Resolved:
    try:
        config = resolve(sides)
    except KeyError as error:
        from difflib import get_close_matches

        name = str(error.args[0])
        known = sorted({str(each).rpartition(".")[2] for field in sides.table.fields for each in field.names if each})
        close = get_close_matches(name, known, 3)
        hint = f"closest: {', '.join(close)}" if close else "--dry-run lists them"
        raise WrongUse(f"--set {printable(name)}: {sides.table.family} has no such field; {hint}.") from None
    if config.contradictions:
        raise DoesNotFit(
            f"The config doesn't go with the tensors of {printable(checkpoint.path.name)}: "
            f"{'; '.join(each.message for each in config.contradictions)}. Correct the config, use the checkpoint that "
            "it belongs to, or overrule it with --set FIELD=VALUE.",
            checkpoint.path,
        )
    return config
