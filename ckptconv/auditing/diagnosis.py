"""What is wrong as a whole, in one sentence each, with what to do about it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ckptconv.auditing.names import Stack
from ckptconv.auditing.scene import Scene
from ckptconv.tables.fit import Fit
from ckptconv.tables.model import Stranger
from ckptconv.text import printable


@dataclass(frozen=True)
class Diagnosis:
    """One sentence, and what to do."""

    sentence: str
    advice: str


def diagnoses(scene: Scene, path: str, stranger: Stranger | None, only_layers: bool) -> Iterator[Diagnosis]:
    """Everything that explains many keys at once. path: the checkpoint's, for commands. stranger: the other model that
    a table knows it as. only_layers: whether all that is missing, and shouldn't be, are whole layers."""
    if stranger is not None and scene.target.kind == "layout":
        yield Diagnosis(f"{scene.name} is {stranger.name}", "use the tools of that model")
    if scene.lists.refused:
        sentence = f"transformers refuses the file as a whole: {scene.lists.refused}"
        yield Diagnosis(sentence, "give all keys the prefix of the model, or none")
    if scene.wrapper is not None:
        yield _wrapper(scene)
    elif scene.other_layout or _strangers(scene):
        yield from _layouts(scene, path)
    for stack in scene.stacks.values():
        yield _layers(scene, stack, only_layers)
    yield from _options(scene)


def _wrapper(scene: Scene) -> Diagnosis:
    found, total = scene.wrapper, len(scene.source)
    assert found is not None
    prefix = printable(found.prefix)
    now = f"only {len(scene.fitting):,} of {total:,} keys fit" if scene.fitting else "every key is unexpected"
    told = f"{now}, and {'all' if found.fitting == total else f'{found.fitting:,}'} of them fit"
    if found.removed:
        rename = f'{{key.removeprefix("{prefix}"): value for key, value in state_dict.items()}}'
        return Diagnosis(f"{told} once the prefix `{prefix}` is gone", f"rename the keys before loading: {rename}")
    rename = f'{{"{prefix}" + key: value for key, value in state_dict.items()}}'
    return Diagnosis(f"{told} with the prefix `{prefix}`", f"rename the keys before loading: {rename}")


def _strangers(scene: Scene) -> bool:
    """Whether the two sides are of different families."""
    here, there = scene.fit, scene.target.fit
    return here is not None and there is not None and here.table is not there.table


def _layouts(scene: Scene, path: str) -> Iterator[Diagnosis]:
    here, there, target = scene.fit, scene.target.fit, scene.target
    assert here is not None
    assert there is not None
    about = here.table.about.get(here.layout.name)
    what = f"{scene.name} is in the layout {here.name}" + (f" ({about})" if about else "")
    other = {
        "layout": f"not in {there.name}",
        "class": f"but {target.name} takes {there.name}",
        "checkpoint": f"{target.name} in {there.name}",
    }[target.kind]
    command = f"ckptconv convert {shlex.quote(printable(path, 1000))} DIR --to {there.name}"
    if scene.other_layout:
        yield Diagnosis(f"{what}, {other}", _way(here, there, command))
    else:
        yield Diagnosis(f"{what}, {other}, which is another model", "use a checkpoint of that model")


def _way(here: Fit, there: Fit, command: str) -> str:
    """What to do with a checkpoint in a layout of the same family: the command, or why there is none."""
    table = there.table
    lacking = [line for line in table.lacks if line.layout == there.layout.name and here.dims.get(line.option)]
    if not lacking:
        return f"convert it: {command}"
    heads = {option for line in table.heads for option in line.options}
    without = f"; without its head it can: {command} --head none" if {line.option for line in lacking} <= heads else ""
    return f"it can't become that: {lacking[0].reason}{without}"


def _layers(scene: Scene, stack: Stack, only: bool) -> Diagnosis:
    prefix, who = printable(stack.prefix.rstrip(".")), scene.target.who
    names = [name for name, size in scene.target.numbers.items() if "layers" in name and size == stack.target]
    name = names[0] if len(names) == 1 else ""
    has = f"the {who} has {stack.target} layers{f' ({name})' if name else ''}, the checkpoint {stack.source}"
    advice = "use the config that belongs to it" + (f", or set {name} to {stack.source}" if name else "")
    if stack.source > stack.target:
        return Diagnosis(f"layers {_range(stack.target, stack.source)} of {prefix} would be lost: {has}", advice)
    which = f"{'only ' if only else ''}layers {_range(stack.source, stack.target)} of {prefix} are missing"
    return Diagnosis(f"{which}: {has}", advice)


def _range(first: int, end: int) -> str:
    return f"{first}..{end - 1}" if end - first > 1 else str(first)


def _options(scene: Scene) -> Iterator[Diagnosis]:
    """Kinds of model (norms before the sublayers, …) that the table tells apart, where both are in one layout."""
    here, there = scene.fit, scene.target.fit
    if here is None or there is None or here.layout != there.layout or scene.target.kind == "layout":
        return
    heads = {option for line in here.table.heads for option in line.options}
    kinds = {row.option.removeprefix("!") for row in here.table.rows if row.option and row.option.startswith("!")}
    for option in sorted(kinds - heads):
        if bool(here.dims.get(option)) != bool(there.dims.get(option)):
            has, lacks = ("the checkpoint", scene.target.name)[:: 1 if here.dims.get(option) else -1]
            sentence = f"{has} is {option.replace('_', ' ')}, {lacks} isn't: another architecture"
            yield Diagnosis(sentence, "use the class that the checkpoint was made for")


def advice(scene: Scene) -> str:
    """What to do about a checkpoint that doesn't fit, where no diagnosis says it."""
    lists, target = scene.lists, scene.target
    heads = [got[0] for key, (got, _) in lists.mismatched.items() if scene.of_target(key) and got]
    if target.kind == "class" and lists.mismatched and len(heads) == len(lists.mismatched):
        other = "load with ignore_mismatched_sizes=True, which starts a new head"
        return f"use a config with as many labels as the checkpoint, {heads[0]:,}, or {other}"
    if target.kind == "class" and lists.mismatched:
        return "use the config that belongs to the checkpoint"
    if target.kind == "class" and lists.missing and all(key in target.told for key in lists.missing):
        return "set tie_word_embeddings to true in the config, if the checkpoint was trained so"
    return "it is of another model or size, or incomplete: see what it holds with `ckptconv inspect`"
