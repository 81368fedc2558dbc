"""Reads what torch.jit.save writes: the tensors of a module and of the modules in it, under their attributes' names.

An archive is a torch zip whose data.pkl holds an object per module: a class `__torch__.…`, made without arguments, and a
dict of attributes as its state (torch/csrc/jit/serialization/pickler.cpp, `pushIValueImpl`). The code lies in `code/`,
with debug records beside it; neither is ever read, so what only the code tells isn't known here: which tensors are
parameters or buffers, and which are plain attributes. All of them are taken: the state dict, with the buffers that
aren't persistent and with attributes that are tensors. Tensors in constants.pkl (small ones that tracing left there,
or, after torch.jit.freeze, all weights) have no names.
"""

from __future__ import annotations

from ckptconv.containers.checkpoint import Checkpoint
from ckptconv.containers.files import Source
from ckptconv.containers.inert import Call, Dict, Global, Node, Pair, tensors_in, walk
from ckptconv.containers.pickles import Pickle
from ckptconv.containers.reading import Reading
from ckptconv.containers.rebuild import why_no_tensor
from ckptconv.containers.statedicts import state_dict, third_party_note
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
    attributes = list(_attributes(source, pickle.root, reading))
    tensors, other = state_dict(attributes, "", source.path)
    _check_not_frozen(source, pickle.root, constants, bool(tensors))
    if constants and constants.root != () and _CONSTANTS not in other:
        other[_CONSTANTS] = constants.root
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
    )


def _attributes(source: Source, root: Node, reading: Reading) -> list[Pair]:
    """The attributes of all modules under their dotted names, in the order of the file; a module that two others share
    is there under both names. Raises Damaged, Unsafe or Unsupported."""
    if _module_state(source, "", root) is None:
        raise Damaged(f"{source.where} is damaged: it has the code of a TorchScript archive, and no module", source.path)
    found: list[Pair] = []
    todo: list[tuple[str, Node, int]] = [("", root, 0)]
    left = _VISITS
    while todo:
        name, node, depth = todo.pop()
        inner = _module_state(source, name, node)
        if inner is None:
            if node is not None and name.rpartition(".")[2] not in _FLAGS:
                reading.count([name], source.path)
                found.append((name, node))
            continue
        reading.count([name], source.path)
        left -= len(inner)
        if left < 0 or depth > _DEPTH_LIMIT:
            what = "contain each other over and over" if left < 0 else f"lie over {_DEPTH_LIMIT} levels deep"
            raise Unsafe(f"{source.where} is refused as unsafe: its modules {what}", source.path)
        todo += [(f"{name}.{key}" if name else key, value, depth + 1) for key, value in reversed(inner)]
    return found


def _module_state(source: Source, name: str, node: Node) -> list[tuple[str, Node]] | None:
    """The attributes of a module, or of another object of TorchScript's; None for any other value."""
    if type(node) is not Call or node.how != "new" or not node.target.full.startswith(_CODE):
        return None
    shown, kind = printable(name) or "the model itself", printable(node.target.full)
    if node.target.full.startswith(_CPLUSPLUS):
        quantised = "quantised" if "quantized" in node.target.full else "an object of C++ code"
        told = f"{shown} is {quantised} ({kind}): use the checkpoint that the archive was made from"
        raise Unsupported(f"{source.where} is not supported: {told}", source.path)
    if type(node.state) is not Dict:
        if not any(_is_tensor(part) for part in walk(node.state)):
            return None
        told = f"what the tensors of {shown} ({kind}) are called is known to its __getstate__ only"
        raise Unsupported(f"{source.where} is not supported: {told}", source.path)
    if node.args or node.pairs or node.items or not all(type(key) is str and key for key, _ in node.state.pairs):
        raise Damaged(f"{source.where} is damaged: {shown} ({kind}) is no module of TorchScript's", source.path)
    return node.state.pairs


def _is_tensor(node: Node) -> bool:
    return next(tensors_in(node), None) is not None or why_no_tensor(node) is not None


def _check_not_frozen(source: Source, root: Call, constants: Pickle | None, named: bool) -> None:
    """Raises Unsupported if the weights are constants: after torch.jit.freeze no module has its flags any more."""
    unnamed = list(tensors_in(constants.root)) if constants else []
    if named and (any(tensor.shape for tensor in unnamed) < ("training" not in dict(root.state.pairs))):
        return
    frozen = any(tensor.shape for tensor in unnamed) and (not named or not _has_flags(root))
    if frozen:
        raise Unsupported(
            f"{source.where} is not supported: it is a frozen TorchScript archive (torch.jit.freeze): the names of its "
            f"tensors are gone, {len(unnamed)} lie in it unnamed: export the model again without freezing it, or use "
            "the checkpoint that it was made from",
            source.path,
        )
