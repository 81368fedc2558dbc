"""What in a state dict is legal and still worth a look: keys that look wrong, tensors that share a storage."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ckptconv.containers.checkpoint import StateDict, Storage, Tensor, by_storage

# Parts of keys that wrappers leave behind: torch/_dynamo/eval_frame.py, torch/distributed/fsdp/_common_utils.py and
# torch/distributed/algorithms/_checkpoint/checkpoint_wrapper.py.
_REMNANTS = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module": "a checkpoint wrapper",
}
_DATA_PARALLEL = "module"  # torch/nn/parallel/distributed.py
# Two modules of the same name happen; from so many on, one half of the keys is the other under a prefix.
_ALIKE = 2
# Pairs of views that are compared, and steps taken to compare two, at the most.
_PAIRS, _STEPS, _EFFORT = 20_000, 10_000, 500_000


class OddKeys(NamedTuple):
    """Keys that look wrong, and why."""

    reason: str
    keys: tuple[str, ...]


class SharedStorage(NamedTuple):
    """Different views of one storage. keys: the first one of each view. bytes: of the storage.

    overlapping: two of the keys whose tensors have bytes in common; () where no two have, as in one big buffer that was
    cut into parameters.
    """

    keys: tuple[str, ...]
    bytes: int
    overlapping: tuple[str, ...]


def odd_keys(keys: Sequence[str]) -> tuple[OddKeys, ...]:
    """Keys with characters that nobody can see or type, with empty parts, that differ in case only, that a wrapper
    left behind, or that are there under a prefix and without it."""
    found = [
        ("control or invisible characters", [key for key in keys if not key.isprintable()]),
        ("blanks", [key for key in keys if " " in key and key.isprintable()]),
        ("characters outside of ASCII", [key for key in keys if not key.isascii() and key.isprintable()]),
        ("an empty part", [key for key in keys if ".." in f".{key}."]),
        ("equal but for upper and lower case", _equal_but_for_case(keys)),
        *_left_behind(keys),
        *_mixed(keys),
    ]
    return tuple(OddKeys(reason, tuple(those)) for reason, those in found if those)


def _equal_but_for_case(keys: Sequence[str]) -> list[str]:
    if len({key.casefold() for key in keys}) == len(keys):
        return []
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(key.casefold(), []).append(key)
    return [key for group in groups.values() if len(group) > 1 for key in group]


def _left_behind(keys: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for part, wrapper in _REMNANTS.items():
        yield f"`{part}` left by {wrapper}", [key for key in keys if part in key and f".{part}." in f".{key}."]


def _mixed(keys: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Keys under DataParallel's prefix beside keys without it; and under any other first part, where the modules under
    it and those beside it are the same ones."""
    within: dict[str, set[str]] = {}
    groups: dict[str, list[str]] = {}
    for key in keys:
        first, dot, rest = key.partition(".")
        if dot:
            module, deeper, _ = rest.partition(".")
            groups.setdefault(first, []).append(key)
            modules = within.setdefault(first, set())
            if deeper:
                modules.add(module)
    for prefix, names in within.items():
        alike = sum(name in within and name != prefix for name in names)  # modules that are also beside the prefix
        whole = alike in (len(names), len(within) - 1)
        if len(within) > 1 and (prefix == _DATA_PARALLEL or (alike >= _ALIKE and whole)):
            yield f"some begin with `{prefix}.`, others don't", groups[prefix]


def shared_storages(tensors: StateDict) -> tuple[SharedStorage, ...]:
    """The storages with more than one view, in the order of the keys; several keys of one view are a tie, not this."""
    effort = _Effort(_EFFORT)
    views = {storage: _views(tensors, keys) for storage, keys in by_storage(tensors).items() if len(keys) > 1}
    return tuple(
        SharedStorage(tuple(keys.values()), storage.nbytes, _overlapping(keys, effort))
        for storage, keys in views.items()
        if len(keys) > 1
    )


def _views(tensors: StateDict, keys: Iterable[str]) -> dict[Tensor, str]:
    """Each view with its first key."""
    first: dict[Tensor, str] = {}
    for key in keys:
        first.setdefault(tensors[key], key)
    return first


def unused_bytes(tensors: Collection[Tensor], others: Iterable[Tensor] = ()) -> int:
    """Bytes of the tensors' storages that lie before, between or behind all their views, of which `others` may be some
    (gaps inside a view count as used): what `torch.save` writes of a large tensor when only a slice of it is in the
    state dict."""
    spans: dict[Storage, list[tuple[int, int]]] = {
        tensor.storage: [] for tensor in tensors if _used(tensor) != (0, tensor.storage.nbytes)
    }
    for tensor in (*tensors, *others) if spans else ():
        if tensor.storage in spans:
            spans[tensor.storage].append(_used(tensor))
    return sum(storage.nbytes - _covered(those) for storage, those in spans.items())


def _used(tensor: Tensor) -> tuple[int, int]:
    return _span(tensor) if tensor.numel else (0, 0)


def _covered(spans: list[tuple[int, int]]) -> int:
    covered = reached = 0
    for start, stop in sorted(spans):
        covered += max(0, stop - max(start, reached))
        reached = max(reached, stop)
    return covered


def _span(tensor: Tensor) -> tuple[int, int]:
    """The first byte of a view that isn't empty, and the one behind its last."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    return tensor.offset * tensor.dtype.itemsize, (tensor.offset + reach + 1) * tensor.dtype.itemsize


@dataclass
class _Effort:
    """How many steps may still be taken, over all the views of a state dict."""

    left: int


def _overlapping(views: dict[Tensor, str], effort: _Effort) -> tuple[str, ...]:
    """The keys of the first two views that overlap, as far as _PAIRS comparisons find them."""
    ordered = sorted((*_span(tensor), key, tensor) for tensor, key in views.items())
    left = _PAIRS
    for at, (_, stop, key, tensor) in enumerate(ordered):
        for after in range(at + 1, len(ordered)):
            start, _, other_key, other = ordered[after]
            left -= 1
            if start >= stop or left < 0:
                break
            if overlap(tensor, other, effort):
                return key, other_key
    return ()


def overlap(a: Tensor, b: Tensor, effort: _Effort | None = None) -> bool:
    """Whether two views of one storage that aren't empty have a byte in common. Exact for every view that a model has;
    where strides are so odd that more than _STEPS combinations would have to be tried, the answer is yes.

    A common byte is a solution of `offset_a + sum(stride_a * i) + byte_a = offset_b + sum(stride_b * j) + byte_b`.
    With every j counted down from its largest value instead of up, all terms stand on one side and are positive.
    """
    longest = {1: a.dtype.itemsize + b.dtype.itemsize - 2}  # bytes of a step → how many there are at most
    rest = b.offset * b.dtype.itemsize - a.offset * a.dtype.itemsize + b.dtype.itemsize - 1
    for tensor in (a, b):
        for size, stride in zip(tensor.shape, tensor.strides, strict=True):
            step = stride * tensor.dtype.itemsize
            longest[step] = longest.get(step, 0) + size - 1
            rest += (size - 1) * step if tensor is b else 0
    steps = sorted(((step, most) for step, most in longest.items() if step and most), reverse=True)
    reach = [sum(step * most for step, most in steps[at:]) for at in range(len(steps) + 1)]
    return _sums_to(rest, steps, reach, effort or _Effort(_STEPS))


def _sums_to(total: int, steps: Sequence[tuple[int, int]], reach: Sequence[int], effort: _Effort) -> bool:
    """Whether the total is a sum of steps, each taken at most as often as it says; reach: the sum of all from there."""
    todo = [(total, 0)]
    for _ in range(_STEPS):
        if not todo:
            return False
        rest, at = todo.pop()
        if not 0 <= rest <= reach[at]:
            continue
        if rest in (0, reach[at]):
            return True
        step, most = steps[at]
        few, many = max(0, -(-(rest - reach[at + 1]) // step)), min(most, rest // step)
        effort.left -= 1 + max(0, many - few)
        if many - few > _STEPS or effort.left < 0:
            return True
        todo += [(rest - step * times, at + 1) for times in range(few, many + 1)]
    return True
