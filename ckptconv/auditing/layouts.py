"""A layout as a target: every key that its table expects, at the checkpoint's own dims."""

from __future__ import annotations

from collections.abc import Iterable

from ckptconv.auditing.target import Lists, Reason, Target
from ckptconv.tables.expand import Dims
from ckptconv.tables.fit import Fit, Shapes, expected_keys, key_index
from ckptconv.tables.model import Const


def target(fit: Fit, dims: Dims) -> Target:
    """The layout of `fit` at these dims (the checkpoint's, which another layout of the family may show better)."""
    table, layout = fit.table, fit.layout.name
    always = {line.option: True for line in table.has if line.layout == layout and not dims.get(line.option)}
    wanted = dict(expected_keys(table, layout, {**dims, **always}))
    own = {key for key, _ in expected_keys(table, layout, dims)} if always else {*wanted}
    made_up = Reason(f"every {layout} file has one; ckptconv convert makes it up", False)
    return Target(
        kind="layout",
        name=fit.name,
        shapes=wanted,
        fit=fit,
        base=next((line.prefix for line in table.bases if line.layout == layout), ""),
        ties=tuple(tie.keys for tie in table.ties if tie.layout == layout),
        told={**constants(fit, wanted), **{key: made_up for key in wanted if key not in own}},
    )


def lists(fit: Fit, target: Target, source: Shapes) -> Lists:
    """What doesn't fit the layout; unexpected and ignored keys under the names that the file has for them."""
    if _stripped(fit, target.base):
        return Lists(tuple(target.shapes), tuple(source), {})
    original = fit.spelled.original
    return Lists(
        tuple(key for key in target.shapes if key not in original and key not in fit.absent),
        tuple(original[key] for key in fit.unexpected),
        {each.key: (each.got, each.expected) for each in fit.mismatched},
        {original[key]: drop.reason for key, drop in fit.drops.items()},
    )


def constants(fit: Fit, keys: Iterable[str]) -> dict[str, Reason]:
    """What a file suffers that lacks one of these keys, as far as they are constants of the layout."""
    index, told = key_index(fit.table, fit.layout.name), {}
    for key in keys:
        const = next((each for each in index.find(key)[0] if isinstance(each, Const)), None)
        if const is not None:
            told[key] = Reason(const.without or "a constant; the file loads without it as well", not const.without)
    return told


def _stripped(fit: Fit, base: str) -> bool:
    """Whether the keys fit only without a wrapper's prefix: as it is, such a file isn't in the layout."""
    modules = ((key.rpartition(".")[0], name.rpartition(".")[0]) for key, name in fit.spelled.original.items())
    return any(name not in (module, f"{module}.".removeprefix(base)[:-1]) for module, name in modules)
