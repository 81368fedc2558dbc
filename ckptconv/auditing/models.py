"""A model class of transformers as a target: built on the meta device, and asked what it would load.

The lists are not computed here: `from_pretrained` itself makes them, on meta tensors of the checkpoint's names and
shapes, so they are those of the installed version (4.57: modeling_utils.py, _load_pretrained_model; 5:
core_model_loading.py, convert_and_load_state_dict_in_model). Nothing is read and nothing takes memory.
"""

# torch and transformers are imported in functions: only audits of a class need them.
from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from ckptconv.auditing.target import Lists, Reason, Target, difference
from ckptconv.errors import Unsafe, Unsupported, WrongUse
from ckptconv.tables.fit import Shapes
from ckptconv.text import printable

_NEEDED = ("torch", "transformers", "accelerate")
_OURS = "ckptconv.hf"
_LAYERS_LIMIT = 512  # in all; each takes 6 ms to build
_CLASSES_LIMIT = 100_000  # transformers makes up a name for each
_MODULES_LIMIT = 20_000


@dataclass(frozen=True)
class Model:
    """A class and its config, and the model that they make on the meta device (torch and transformers objects)."""

    kind: Any
    config: Any
    built: Any
    notes: tuple[str, ...]


def build(path: Path, document: Mapping[str, Any], class_name: str | None, trust_remote_code: bool) -> Model:
    """The model of the config.json at `path`, whose content is `document`; without any weights.

    class_name: the class, by default the first of the config's `architectures`. Raises WrongUse where neither names
    one, Unsafe for absurd sizes, Unsupported for a class that isn't there, needs custom code, or refuses the config.
    """
    _require_installed()
    _require_sane(path, document)
    listed = document.get("architectures")
    name = class_name or (listed[0] if isinstance(listed, list) and listed else None)
    if not isinstance(name, str):
        raise WrongUse(
            f"{printable(str(path))} names no class (`architectures`); expected one with --class, for instance "
            "--class XLMRobertaForMaskedLM.",
            path,
        )
    with _quiet():
        kind = _class(name, path, document, trust_remote_code)
        try:
            config, built = _built(kind, path)
        except Exception as problem:  # whatever a config makes a class do
            raise Unsupported(
                f"{printable(name)} can't be built from {printable(str(path))}: {_first_line(problem)}. Name the class "
                "that the config is for with --class.",
                path,
            ) from None
    return Model(kind, config, built, tuple(_notes(kind, document)))


def target(model: Model) -> Target:
    """What the class expects: its state dict, its ties, and the buffers that it makes itself."""
    import transformers

    built, prefix = model.built, model.kind.base_model_prefix
    states = built.state_dict()
    base = f"{prefix}." if prefix else ""
    same: dict[int, list[str]] = {}
    for key, weight in built.named_parameters(remove_duplicate=False):
        same.setdefault(id(weight), []).append(key)
    return Target(
        kind="class",
        name=model.kind.__name__,
        shapes={key: tuple(weight.shape) for key, weight in states.items()},
        base=base,
        body=base if prefix and hasattr(built, prefix) else "",
        ties=tuple(tuple(sorted(keys, key=lambda key: not key.startswith(base))) for keys in same.values() if keys[1:]),
        buffers=frozenset(key.rpartition(".")[2] for key, _ in built.named_buffers() if key not in states),
        numbers=_numbers(model.config),
        told=_untied(model),
        loader=f"transformers {transformers.__version__}",
        notes=model.notes,
    )


def lists(model: Model, source: Shapes, target: Target) -> Lists:
    """What `from_pretrained` says of a checkpoint with these keys and shapes, and what it says nothing of."""
    import torch

    # transformers 4.57 builds on the CPU and then moves to meta: the device is there for it
    with _quiet(), torch.device("meta"):
        states = {key: torch.empty(shape) for key, shape in source.items()}
        try:
            _, info = _weightless(model.kind).from_pretrained(
                None,
                config=deepcopy(model.config),
                state_dict=states,
                device_map={"": "meta"},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except Exception as problem:  # whatever a config makes the loader do
            plain = difference(source, target)
            return Lists(plain.missing, plain.unexpected, plain.mismatched, refused=_first_line(problem))
    there = {target.plain(key): key for key in source}
    missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
    # 4.57 names the keys only
    keys = {each if isinstance(each, str) else each[0] for each in info["mismatched_keys"]}
    got = {each[0]: tuple(each[1]) for each in info["mismatched_keys"] if not isinstance(each, str)}
    mismatched = {
        key: (got[key] if key in got else source[there[target.plain(key)]], shape)
        for key, shape in target.shapes.items()
        if key in keys
    }
    return Lists(
        tuple(key for key in target.shapes if key in missing),
        tuple(_in_order(unexpected, source, target)),
        mismatched,
        _ignored(model, source, target, missing, unexpected),
    )


def _require_installed() -> None:
    for name in _NEEDED:
        try:
            import_module(name)
        except ImportError as problem:
            raise Unsupported(
                f"To audit against a model class, {name} is needed, which can't be imported "
                f"({printable(str(problem))}): pip install 'ckptconv[hf]'."
            ) from None


def _require_sane(path: Path, document: Mapping[str, Any]) -> None:
    """Raises Unsafe for counts that make transformers take minutes or gigabytes before any tensor is there."""
    layers = 0
    for name, value in _integers(document):
        layers += max(0, value) if "layer" in name else 0
        limit, got = (_CLASSES_LIMIT, value) if name == "num_labels" else (_LAYERS_LIMIT, layers)
        if got > limit:
            shown = f"{got:,}" if got < 10**20 else "a number of over 20 digits"
            where = f"{printable(str(path))}: {printable(name)}"
            raise Unsafe(f"{where} is {shown}, which no model has; expected at most {limit:,}.", path)


def _integers(document: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Every integer of a config and of the configs in it (`text_config`), by its name."""
    todo: list[Any] = [document]
    while todo:
        node = todo.pop()
        for name, value in node.items() if isinstance(node, Mapping) else ():
            todo.append(value)
            if isinstance(value, int):
                yield name, value


def _class(name: str, path: Path, document: Mapping[str, Any], trust_remote_code: bool) -> Any:
    """The class of that name: ckptconv's own, transformers', or that of the custom code beside the config."""
    import transformers

    ours = import_module(_OURS)
    own = document.get("model_type") == ours.DeltaLMConfig.model_type
    places = (ours, transformers) if own else (transformers, ours)
    for place in places:
        kind = _found(place, name)
        if kind is not None:
            return kind
    custom = document.get("auto_map")
    references = [each for each in custom.values() if isinstance(each, str)] if isinstance(custom, dict) else []
    reference = next((each for each in references if each.rpartition(".")[2] == name), None)
    if reference is None:
        names = [each for place in places for each in dir(place) if re.match("(?!Auto).*(Model$|For[A-Z])", each)]
        close = ", ".join(get_close_matches(name, names, 3, 0.7)) or "another one, with --class"
        raise Unsupported(
            f"There is no model class {printable(name)} in transformers {transformers.__version__}; expected for "
            f"instance {close}.",
            path,
        )
    if not trust_remote_code:
        raise Unsupported(
            f"{printable(name)} needs custom code ({printable(reference)} in {printable(str(path.parent))}), which "
            "would be executed: read it, then say --trust-remote-code.",
            path,
        )
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    try:
        return get_class_from_dynamic_module(reference, str(path.parent), local_files_only=True)
    except Exception as problem:  # whatever custom code does when it is imported
        raise Unsupported(
            f"The custom code {printable(reference)} can't be imported: {_first_line(problem)}.", path
        ) from None


def _found(place: Any, name: str) -> Any:
    from transformers import PreTrainedModel

    try:
        kind: Any = getattr(place, name, None)
    except Exception:  # an optional dependency of that one class
        return None
    is_model = isinstance(kind, type) and issubclass(kind, PreTrainedModel)
    return kind if is_model and getattr(kind, "config_class", None) else None


def _built(kind: Any, path: Path) -> tuple[Any, Any]:
    import torch

    config = kind.config_class.from_pretrained(str(path), local_files_only=True)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # it would need the kernels
    for name in ("sinusoidal_embeddings", "sinusoidal_pos_embds"):
        if getattr(config, name, False):
            setattr(config, name, False)  # transformers 4.57 computes them number by number; the keys are the same
    config._attn_implementation = "eager"  # any other needs a kernel too, and has the same keys
    with torch.device("meta"), _counted():
        return config, kind(config)


@contextmanager
def _counted() -> Iterator[None]:
    """Ends the building of a model with more modules than any has."""
    from torch.nn.modules.module import register_module_module_registration_hook

    left = _MODULES_LIMIT

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"it would have over {_MODULES_LIMIT:,} modules")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _weightless(kind: Any) -> Any:
    """The class, but keys that are missing are left on the meta device, where transformers 4.57 would make them up in
    memory."""

    def nothing(*_: Any, **__: Any) -> None:
        """What there is to do for a key without a value."""

    hooks = ("_move_missing_keys_from_meta_to_cpu", "_initialize_missing_keys")
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, **dict.fromkeys(hooks, nothing)})


def _in_order(names: set[str], source: Shapes, target: Target) -> Iterator[str]:
    """The names in the checkpoint's order, as far as they are its keys; transformers names some without the prefix."""
    places = {target.plain(key): at for at, key in enumerate(source)}
    return iter(sorted(names, key=lambda name: (places.get(target.plain(name), len(places)), name)))


def _ignored(
    model: Model, source: Shapes, target: Target, missing: set[str], unexpected: set[str]
) -> Mapping[str, str]:
    """Keys that have no place on the other side, and of which transformers says nothing."""
    told = set(map(target.plain, (*target.shapes, *unexpected)))
    there = set(map(target.plain, source)) | missing | {key for keys in target.ties for key in keys}
    left_out = _patterns(model.built._keys_to_ignore_on_load_unexpected)
    made_up = _patterns(model.built._keys_to_ignore_on_load_missing)
    found = {}
    for key in source:
        if target.plain(key) in told:
            continue
        if key.rpartition(".")[2] in target.buffers:
            found[key] = f"a buffer that {target.name} makes itself"
        elif left_out and left_out.search(key):
            found[key] = f"{target.name} leaves it out by itself"
    for key in target.shapes:
        if made_up and made_up.search(key) and key not in there and target.plain(key) not in there:
            found[key] = f"{target.name} makes it up by itself"
    return found


def _patterns(patterns: Any) -> re.Pattern[str] | None:
    return re.compile("|".join(f"({pattern})" for pattern in patterns)) if patterns else None


def _numbers(config: Any) -> dict[str, int]:
    found = {name: value for name, value in config.to_dict().items() if type(value) is int}
    return {**found, "num_labels": config.num_labels} if type(getattr(config, "num_labels", None)) is int else found


def _untied(model: Model) -> dict[str, Reason]:
    """What there is to say of an output projection that the config unties."""
    head = model.built.get_output_embeddings()
    if head is None or getattr(model.config, "tie_word_embeddings", True):
        return {}
    reason = Reason("the config unties it (tie_word_embeddings), but the checkpoint has none of its own", False)
    own = {id(weight) for weight in head.parameters()}
    return {key: reason for key, weight in model.built.named_parameters() if id(weight) in own}


def _notes(kind: Any, document: Mapping[str, Any]) -> Iterator[str]:
    said, expected = document.get("model_type"), kind.config_class.model_type
    if said and expected and said != expected:
        yield f"the config is for a {printable(str(said))}, {kind.__name__} for a {expected}"
    if document.get("quantization_config"):
        yield "the config is of a quantised model: the class was built without it"


def _first_line(problem: BaseException) -> str:
    text = next((line.strip() for line in str(problem).splitlines() if line.strip()), "")
    return printable(f"{type(problem).__name__}: {text}".rstrip(": .").removeprefix("ValueError: "), 300)


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers' warnings and progress bars off: what they would say is what this audit says."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
