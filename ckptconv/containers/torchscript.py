"""Reads what torch.jit.save writes: the tensors of a module and of the modules in it, under their attributes' names.

An archive is a torch zip whose data.pkl holds an object per module: a class `__torch__.…`, made without arguments, and
a dict of attributes as its state (torch/csrc/jit/serialization/pickler.cpp, `pushIValueImpl`). The code lies in
`code/`, with debug records beside it; neither is ever read, so what only the code tells isn't known here: which tensors
are parameters or buffers, and which are plain attributes. All of them are taken: the state dict, with the buffers that
aren't persistent and with attributes that are tensors. Tensors in constants.pkl (small ones that tracing left there,
or, after torch.jit.freeze, all weights) have no names.
"""

from __future__ import annotations

from ckptconv.containers.checkpoint import Checkpoint, Tensor
from ckptconv.containers.files import Source
from ckptconv.containers.inert import Call, Dict, Node, Pair, tensors_in, walk
from ckptconv.containers.reading import Reading
from ckptconv.containers.rebuild import why_no_tensor
from ckptconv.containers.statedicts import check_sharing, state_dict, third_party_note
from ckptconv.containers.torch_zip import Archive, unpickle
from ckptconv.errors import Damaged, Unsafe, Unsupported
from ckptconv.text import printable

_CONSTANTS = "constants.pkl"
_FLAGS = frozenset({"training", "_is_full_backward_hook"})  # of every module
_DEPTH_LIMIT = 100  # modules in modules
_VISITS = 1_000_000  # attributes; 50,000 tensors have 200,000
_CODE = "__torch__."
_CPLUSPLUS = f"{_CODE}torch.classes."  # classes that are registered in C++


def open_torchscript(archive: Archive, reading: Reading) -> Checkpoint:
    """The checkpoint in a TorchScript archive. Raises Damaged, Unsafe or Unsupported."""
    source = archive.source
    pickle = unpickle(archive, "data", reading)
    has_constants = f"{archive.root}{_CONSTANTS}" in archive.records
    constants = unpickle(archive, "constants", reading) if has_constants else None
    attributes = _attributes(source, pickle.root, reading)
    check_sharing(attributes, source.path)
    _check_states(source, attributes)
    tensors, other = state_dict(attributes, "", source.path)
    if constants:
        _check_not_frozen(source, pickle.root, constants.root, bool(tensors))
        if constants.root != ():
            other.setdefault(_CONSTANTS, constants.root)
    names = pickle.globals + (constants.globals if constants else ())
    return Checkpoint(
        path=source.path,
        container="torchscript",
        files=(source.path,),
        entries={"": tensors} if tensors else {},
        other=other,
        globals=tuple(dict.fromkeys(name.full for name in names)),
        notes=third_party_note(names) + archive.notes,
        stamps={source.path: source.stamp},
        records=archive.telling,
    )


def _attributes(source: Source, root: Node, reading: Reading) -> list[Pair]:
    """The attributes of all modules under their dotted names, in the order of the file; those of a module that lies in
    two others are there under both names. Raises Damaged, Unsafe or Unsupported."""
    if not _is_module(root):
        raise Damaged(f"{source.where} is damaged: it has TorchScript's code or constants, and no module", source.path)
    found: list[Pair] = []
    todo: list[tuple[str, Node, int]] = [("", root, 0)]
    left = _VISITS
    while todo:
        name, node, depth = todo.pop()
        reading.count([name], source.path)
        if not _is_module(node):
            found.append((name, node))
            continue
        _check_module(source, name, node)
        inner = [pair for pair in node.state.pairs if pair[1] is not None and pair[0] not in _FLAGS]
        left -= len(node.state.pairs)
        if left < 0 or depth > _DEPTH_LIMIT:
            what = "contain each other over and over" if left < 0 else f"lie over {_DEPTH_LIMIT} levels deep"
            raise Unsafe(f"{source.where} is refused as unsafe: its modules {what}", source.path)
        todo += [(f"{name}.{key}" if name else key, value, depth + 1) for key, value in reversed(inner)]
    return found


def _is_object(node: Node) -> bool:
    return type(node) is Call and node.how == "new" and node.target.full.startswith(_CODE)


def _is_module(node: Node) -> bool:
    """Whether it is an object with attributes: a module, or an instance of another scripted class."""
    return _is_object(node) and type(node.state) is Dict and not node.target.full.startswith(_CPLUSPLUS)


def _check_module(source: Source, name: str, node: Call) -> None:
    named = all(type(key) is str and key for key, _ in node.state.pairs)
    if not named or node.args or node.kwargs or node.pairs or node.items:
        raise Damaged(f"{source.where} is damaged: {_shown(name, node)} is no module that torch writes", source.path)


def _check_states(source: Source, attributes: list[Pair]) -> None:
    """Raises Unsupported for objects with tensors in a state whose meaning only code knows: packed parameters of
    quantised layers, and modules with a __getstate__ of their own."""
    for name, node in attributes:
        opaque = [part for part in walk(node) if _is_object(part) and type(part.state) is not Dict]
        if not opaque or not any(type(part) is Tensor or why_no_tensor(part) for part in walk(node)):
            continue
        if "quantized" in opaque[0].target.full:
            told = f"{_shown(name, opaque[0])} is quantised"
        else:
            told = f"what the tensors in {_shown(name, opaque[0])} are called is known to its code only"
        raise Unsupported(
            f"{source.where} is not supported: {told}: use the checkpoint that the archive was made from", source.path
        )


def _shown(name: str, node: Call) -> str:
    return f"{printable(name) or 'the model'} ({printable(node.target.full)})"


def _check_not_frozen(source: Source, root: Call, constants: Node, named: bool) -> None:
    """Raises Unsupported if the weights are constants. After torch.jit.freeze no module has its flags any more, and
    only attributes that were to be preserved have names."""
    unnamed = list(tensors_in(constants))
    frozen = not named or all(key != "training" for key, _ in root.state.pairs)
    if frozen and any(tensor.shape for tensor in unnamed):
        raise Unsupported(
            f"{source.where} is not supported: it is a frozen TorchScript archive (torch.jit.freeze): its "
            f"{len(unnamed)} constant tensors have lost their names: export the model again without freezing it, or "
            "use the checkpoint that it was made from",
            source.path,
        )
