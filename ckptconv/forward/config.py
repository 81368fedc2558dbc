"""What an engine is told besides the tensors: fairseq's args, or the fields of a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckptconv.containers.read import Reader
from ckptconv.conversion.facts import read_facts
from ckptconv.detect import state_dict_of
from ckptconv.errors import DoesNotFit
from ckptconv.forward.model import Subject
from ckptconv.plan import ties
from ckptconv.tables.fields import COMPUTED, Resolved, Sides, resolve
from ckptconv.text import printable

_BARE = "pretrained"  # DeltaLM's pretrained files have no place for a config: they get that of the layout FULL
_FULL = "fairseq"
_JSON = "config.json"
_PLACES = ("cfg.model", "args")


@dataclass(frozen=True)
class Config:
    """fields: by name. said: whether the checkpoint itself says them. notes: what had to be assumed or taken over."""

    fields: Mapping[str, Any]
    said: bool
    notes: tuple[str, ...] = ()


def config(subject: Subject, other: Subject, half: str, other_half: str) -> Config:
    """The subject's own config; what it leaves open is read off the tensors, or else what `other` says of a model of
    these sizes, or else what the table assumes.

    half, other_half: what messages call the two. Raises DoesNotFit where the config contradicts the shapes.
    """
    own = stated(subject)
    if own:
        wrong = [each.message for each in _resolved(subject, subject).contradictions if each.kind == "tensors"]
        if wrong:
            raise DoesNotFit(f"its config doesn't go with its tensors: {'; '.join(wrong)}; correct the config")
        if _is_json(subject):  # what it leaves open, transformers has defaults for
            return Config(own, True)
    there = stated(other) and other.found.table.family == subject.found.table.family
    resolved = _resolved(subject, other if there else subject)
    own = {name: value for name, value in own.items() if value is not None}
    fields = {**_fields(subject, resolved), **own}
    assumed = {name: fields[name] for name in _unseen(subject) if name in fields and name not in own}
    if not assumed:
        return Config(fields, bool(own))
    shown = ", ".join(f"{name} = {printable(str(value))}" for name, value in assumed.items())
    lacking = "lacks fields of its config" if own else "has no config"
    origin = f"as the config of the {other_half} says" if there else "assumed, as by `ckptconv convert`"
    return Config(fields, bool(own), (f"the {half} {lacking}: {shown}, {origin}",))


def stated(subject: Subject) -> dict[str, Any]:
    """What the checkpoint itself says of its model; {} for nothing."""
    if _is_json(subject):
        return dict(subject.documents.get(_JSON) or {})
    top = subject.documents.get("") or {}
    cfg = top.get("cfg")
    places = (cfg.get("model") if isinstance(cfg, Mapping) else None, top.get("args"))
    return next(({str(name): place[name] for name in place} for place in places if isinstance(place, Mapping)), {})


def _is_json(subject: Subject) -> bool:
    return subject.found.layout.container == "safetensors"


def _layout(subject: Subject) -> str:
    name = subject.found.layout.name
    return _FULL if name == _BARE else name


def _resolved(subject: Subject, said: Subject) -> Resolved:
    """Every field of the subject's layout at its own sizes, as far as possible from what `said` says."""
    names = _names(subject)
    before = names if said is subject else _names(said)
    documents = {} if said.found.layout.name == _BARE else said.documents
    return resolve(Sides(subject.found.table, _layout(said), _layout(subject), before, names, documents, {}, {}))


def _names(subject: Subject) -> dict[str, Any]:
    fit = subject.found
    with Reader(subject.checkpoint) as reader:
        facts = read_facts(fit, state_dict_of(subject.checkpoint, fit), reader)
    names = {**fit.dims, **ties(fit, facts, fit.dims), **dict.fromkeys(COMPUTED)}
    return {**{line.dim: line.size for line in fit.table.defaults}, **names}


def _model(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Of fields by path, those of the model, by their last part."""
    places = tuple(f"{place}." for place in _PLACES)
    return {path.rpartition(".")[2]: value for path, value in sizes.items() if path.startswith(places)}


def _fields(subject: Subject, resolved: Resolved) -> dict[str, Any]:
    if _is_json(subject):
        return resolved.document(_JSON)
    return _model({each.path: each.value for each in resolved.values if not each.document})


def _unseen(subject: Subject) -> list[str]:
    """The fields that no tensor shows and that the model's numbers depend on."""
    table = subject.found.table
    names = [each.names[table.column(_layout(subject))] for each in table.fields if each.kind == "assume"]
    return [name.paths[0].rpartition(".")[2] for name in names if name]
