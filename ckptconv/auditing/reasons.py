"""Why each key doesn't fit, and whether that is as it should be."""

from __future__ import annotations

from ckptconv.auditing.names import Stack
from ckptconv.auditing.scene import Scene
from ckptconv.auditing.target import Reason, Shape
from ckptconv.text import printable

_BUFFERS = {
    "position_ids": "a buffer that counts 0, 1, 2 …",
    "token_type_ids": "a buffer of zeros",
    "inv_freq": "a buffer that is computed from the config",
    "num_batches_tracked": "a counter of batch norm",
    "version": "a buffer in which fairseq writes its own version",
    "_float_tensor": "a buffer that tells fairseq a device",
}


def missing(scene: Scene, key: str) -> Reason:
    """Why the target's `key` isn't in the checkpoint."""
    target, module = scene.target, scene.of_target(key)
    if scene.wrapper is not None and target.plain(key) in scene.unwrapped:
        return Reason(_wrapped(scene, "there"), False)
    if target.plain(key) in scene.convertible:
        return Reason(f"can be made from the checkpoint's {_layout(scene)} keys", False)
    if key in target.told:
        return target.told[key]
    if stack := scene.stack_of(key):
        return Reason(_stack(scene, stack), False)
    if buffer := _BUFFERS.get(key.rpartition(".")[2]):
        return Reason(buffer, True)
    if not module or not scene.body_fits:
        return Reason("part of the model itself", False)
    if module in scene.half_there:
        return Reason(f"part of {_called(module)} of which the checkpoint has the rest", False)
    if module == "pooler":
        return Reason("a pooler, which will be new: random until it is trained", True)
    if target.name in scene.claims:
        return Reason(f"a head, which a checkpoint of {target.name} should have", False)
    return Reason("a head, which will be new: train it", True)


def unexpected(scene: Scene, name: str) -> Reason:
    """Why the checkpoint's key, which transformers may call by another name, has no place in the target."""
    target = scene.target
    key = scene.original.get(target.plain(name), name)
    module = scene.of_source(key)
    if scene.wrapper is not None and key.startswith(scene.wrapper.prefix) == scene.wrapper.removed:
        return Reason(_wrapped(scene, "has"), False)
    if scene.other_layout:
        return Reason(f"a key of {_layout(scene)}", False)
    if key in scene.droppable:
        return Reason(scene.droppable[key], True)
    if buffer := _BUFFERS.get(key.rpartition(".")[2]):
        return Reason(buffer, True)
    if stack := scene.stack_of(key):
        return Reason(_stack(scene, stack), False)
    if not module or not scene.body_fits or module in scene.half_there:
        return Reason(f"{target.name} has no such key", False)
    return Reason(f"{_called(module)} that {target.name} has no place for: left behind", True)


def mismatched(scene: Scene, key: str, got: Shape, wanted: Shape) -> Reason:
    """Why the shapes differ, as far as the config's numbers say."""
    who, head = scene.target.who, bool(scene.of_target(key))
    fit = scene.target.fit if scene.target.kind == "layout" else None
    line = next((each for each in fit.mismatched if each.key == key), None) if fit else None
    if line is not None and fit is not None:
        symbols = f" ({','.join(line.symbols)})" if line.symbols else ""
        return Reason(f"the other keys say {list(wanted)}{symbols}, {fit.table.where(line.line)}", False)
    if len(got) != len(wanted):
        return Reason(f"{len(got)} axes where the {who} has {len(wanted)}", False)
    pairs = [(a, b) for a, b in zip(got, wanted, strict=True) if a != b]
    parts = [f"{a:,} where the {who} has {b:,}{_field(scene, b, head)}" for a, b in dict.fromkeys(pairs)]
    return Reason(", ".join(parts), False)


def _field(scene: Scene, size: int, head: bool) -> str:
    """` (num_labels)`: what the config calls the size; "" if nothing, or several things are called so."""
    names = [name for name, number in scene.target.numbers.items() if number == size]
    if head and "num_labels" in names:
        names = ["num_labels"]
    return f" ({names[0]})" if len(names) == 1 else ""


def _called(module: str) -> str:
    return "a pooler" if module == "pooler" else "a head"


def _layout(scene: Scene) -> str:
    return scene.fit.name if scene.fit else "other"


def _wrapped(scene: Scene, verb: str) -> str:
    found = scene.wrapper
    assert found is not None
    prefix = f"the prefix `{printable(found.prefix)}`"
    with_or_without = "with" if found.removed else "without"
    return f"there {with_or_without} {prefix}" if verb == "there" else f"{'has' if found.removed else 'lacks'} {prefix}"


def _stack(scene: Scene, stack: Stack) -> str:
    return f"the {scene.target.who} has {stack.target} layers, the checkpoint {stack.source}"
