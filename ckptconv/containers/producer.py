"""What wrote a checkpoint, as far as the files tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ckptconv.containers.checkpoint import PADDLE_NAMES, Checkpoint
from ckptconv.containers.safetensors import TIED
from ckptconv.containers.torch_zip import BYTE_ORDER, FORMAT_VERSION

# safetensors' metadata `format`: huggingface/safetensors, bindings/python
_FRAMEWORKS = {"pt": "torch", "tf": "tensorflow", "flax": "flax", "jax": "jax", "np": "numpy", "mlx": "mlx"}


class Producer(NamedTuple):
    """Software that writes such a file. version: in words (`2.1 or newer`), or "" where nothing tells it.

    evidence: what tells.
    """

    name: str
    version: str
    evidence: str


def producers(checkpoint: Checkpoint, config: Mapping[str, Any]) -> tuple[Producer, ...]:
    """Everything that left a trace, the container's writer first. config: the `config.json` beside it."""
    written = (*_torch(checkpoint), *_safetensors(checkpoint), *_paddle(checkpoint))
    return (*written, *_fairseq(checkpoint), *_xlm(checkpoint), *_versions(checkpoint, config))


def _torch(checkpoint: Checkpoint) -> Iterator[Producer]:
    """torch's generations of files: torch/serialization.py and docs/source/notes/serialization.rst.

    The zip came with 1.6, its record `byteorder` with 2.1 and `.format_version` with 2.7 (pytorch#143879).
    """
    if "torch" not in checkpoint.container:
        return
    records = checkpoint.records
    if records is None:
        yield Producer("torch", "1.5 or older", "the legacy format, protocol 1001")
    elif FORMAT_VERSION in records:
        yield Producer("torch", "2.7 or newer", "a zip with a format version")
    elif BYTE_ORDER in records:
        yield Producer("torch", "2.1 or newer", "a zip that names its byte order")
    else:
        yield Producer("torch", "1.6 to 2.0", "a zip that doesn't name its byte order")


def _safetensors(checkpoint: Checkpoint) -> Iterator[Producer]:
    framework = checkpoint.metadata.get("format")
    if framework is not None:
        name = _FRAMEWORKS.get(framework, framework)
        yield Producer(name, "", f"the metadata's format, {framework}")
    if TIED in checkpoint.metadata:
        yield Producer("ckptconv", "", "its note on tied keys in the metadata")


def _paddle(checkpoint: Checkpoint) -> Iterator[Producer]:
    """paddle.save: python/paddle/framework/io.py, `_build_saved_state_dict`. It has stored no version so far."""
    if checkpoint.container == "paddle":
        named = ", and the parameters' names in a program" if PADDLE_NAMES in checkpoint.other else ""
        yield Producer("paddle", "", f"a pickle of numpy arrays{named}")


def _fairseq(checkpoint: Checkpoint) -> Iterator[Producer]:
    """fairseq's generations: `fairseq/checkpoint_utils.py`, save_state, and `fairseq/trainer.py`, state_dict.

    No fairseq stores its own version. 0.10 has `args`, as zip; older ones too, as legacy files with pickled meters;
    from October 2020 there is a `cfg`, of omegaconf until March 2021 and plain since then.
    """
    names = checkpoint.other.keys()
    if not (names & {"args", "cfg"} and names & {"extra_state", "optimizer_history"}):
        return
    if checkpoint.other.get("cfg") is None:
        old = checkpoint.container == "torch legacy"
        yield Producer("fairseq", "0.9 or older" if old else "0.10", "args, no cfg" + ", the legacy format" * old)
    elif any(name.startswith("omegaconf.") for name in checkpoint.globals):
        yield Producer("fairseq", "October 2020 to March 2021", "a cfg of omegaconf")
    else:
        yield Producer("fairseq", "since March 2021", "a plain cfg")


def _xlm(checkpoint: Checkpoint) -> Iterator[Producer]:
    """facebookresearch/XLM: `xlm/trainer.py`, save_checkpoint. It has no version, and stores none."""
    if checkpoint.other.keys() >= {"params", "dico_id2word", "dico_word2id", "dico_counts"}:
        yield Producer("facebookresearch/XLM", "", "its params and dictionary")


def _versions(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Iterator[Producer]:
    """Versions that are written out: by transformers in config.json, by others (Lightning) in an entry `…version`."""
    stated = config.get("transformers_version")
    if isinstance(stated, str):
        yield Producer("transformers", stated, "config.json")
    if isinstance(config.get("paddlenlp_version"), str):
        yield Producer("paddlenlp", config["paddlenlp_version"], "config.json")
    for name, value in checkpoint.other.items():
        package = name.removesuffix("version").rstrip("-_.")
        if package != name and package and "." not in package and isinstance(value, str):
            yield Producer(package, value, f"the entry {name}")
