"""The fairseq half: fairseq's own classes, built from the args and loaded strictly by fairseq's own upgrades.

Of the args only plain values are used, and only those that shape the model: others name files to be read
(`--pretrained-deltalm-checkpoint`, `--encoder-embed-path`) or are evaluated as Python (`xformers_att_config`, in
fairseq/utils.py: eval_str_dict).
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ckptconv
from ckptconv.forward.batches import EOS, PAD, Batch, padded
from ckptconv.forward.config import Config
from ckptconv.forward.decode import behind
from ckptconv.forward.model import Decoded, Engine, Subject
from ckptconv.forward.quiet import only, same_path
from ckptconv.forward.tensors import kept, read
from ckptconv.tables.expand import names_of

_PLUGIN = Path(ckptconv.__path__[0]) / "fairseq_plugin"
_SIDES = ("layers", "embed_dim", "ffn_embed_dim", "attention_heads", "normalize_before", "learned_pos")
_ARGS = frozenset(
    [f"{side}_{name}" for side in ("encoder", "decoder") for name in _SIDES]
    + ["activation_fn", "layernorm_embedding", "no_scale_embedding", "no_token_positional_embeddings"]
    + ["max_positions", "tokens_per_sample", "max_source_positions", "max_target_positions"]
    + ["share_all_embeddings", "share_decoder_input_output_embed", "no_cross_attention", "cross_self_attention"]
    + ["adapter_layer_norm", "adapter_reuse_layer_norm", "ln_before_adapter", "bottleneck"]
    + ["untie_weights_roberta", "pooler_activation_fn", "spectral_norm_classification_head", "no_decoder_final_norm"]
)


def roberta(subject: Subject, config: Config, rows: int) -> Engine:
    """XLM-R of any generation as fairseq's RobertaModel (fairseq/models/roberta/model.py). rows: of the logits that
    are kept. Raises whatever fairseq raises."""
    from fairseq.models.roberta import RobertaModel

    inner = "model_fast." if subject.found.layout.name == "fairseq-infoxlm" else ""
    return _encoder(RobertaModel, subject, Namespace(**_plain(config)), inner, rows)


def xmod(subject: Subject, config: Config, rows: int) -> Engine:
    """X-MOD as fairseq's XMODModel (fairseq/models/xmod/model.py). Raises whatever fairseq raises."""
    from fairseq.models.xmod.model import XMODModel

    languages = list(names_of(subject.found.dims, "lang"))
    args = Namespace(**_plain(config), languages=languages, adapter_modules=True, ffn_modules=False)
    return _encoder(XMODModel, subject, args, "", rows)


def _encoder(kind: Any, subject: Subject, args: Namespace, inner: str, rows: int) -> Engine:
    """A RobertaModel or one of its kin. inner: what the keys of the part that is run begin with."""
    import torch

    args.load_checkpoint_heads = True
    state = read(subject, kept(subject, inner))
    vocab = subject.found.sizes["vocab"]
    model = kind.build_model(args, SimpleNamespace(source_dictionary=_dictionary(vocab)))
    model.load_state_dict(state, strict=True)
    model.float().eval()
    heads = getattr(model, "classification_heads", {})

    def run(batch: Batch) -> dict[str, Any]:
        ids = torch.tensor(padded(batch.rows, batch.left))
        there = ids.ne(PAD)
        spoken = {"lang_id": list(batch.languages)} if batch.languages else {}
        features, extra = model(ids, features_only=True, return_all_hiddens=True, **spoken)
        states = [state.transpose(0, 1) for state in extra["inner_states"][:-1]] + [features]
        found = {name: state[there] for name, state in named(states)}
        found["logits"] = model.encoder.output_layer(features[there])[:, :rows].clone()
        if batch.first_is_a_token:
            found |= {f"head {name}": head(features) for name, head in heads.items()}
        return found

    return Engine(_name(model), run)


def deltalm(subject: Subject, config: Config, rows: int) -> Engine:
    """A fine-tuned or pretrained DeltaLM as the model of ckptconv's plugin. Raises whatever fairseq raises."""
    import torch

    kind = _plugin()
    sizes = subject.found.sizes
    source = _dictionary(sizes["vocab"])
    target = source if sizes["tgt_vocab"] == sizes["vocab"] else _dictionary(sizes["tgt_vocab"])
    bare = subject.found.layout.name == "pretrained"
    state = None if bare else read(subject, kept(subject))
    task = SimpleNamespace(source_dictionary=source, target_dictionary=target)
    model = _build(Namespace(**_plain(config), arch="deltalm_base"), task)
    model.load_state_dict(_pretrained(subject, model, kind) if state is None else state, strict=True)
    model.float().eval()

    def run(batch: Batch) -> dict[str, Any]:
        ids, given = torch.tensor(padded(batch.rows, batch.left)), torch.tensor(padded(batch.targets, False))
        at, to = ids.ne(PAD), given.ne(PAD)
        encoded = model.encoder(ids, src_lengths=at.sum(1), return_all_hiddens=True)
        features, extra = model.decoder(given, encoder_out=encoded, features_only=True)
        states = [*encoded["encoder_states"][:-1], encoded["encoder_out"][0]]
        found = {name: state.transpose(0, 1)[at] for name, state in named(states, "encoder.")}
        inner = [state.transpose(0, 1) for state in extra["inner_states"][:-1]] + [features]
        found |= {name: state[to] for name, state in named(inner, "decoder.")}
        found["logits"] = model.decoder.output_layer(features[to])[:, :rows].clone()
        return found

    def decode(sentences: Sequence[Sequence[int]], new: int) -> list[Decoded]:
        from fairseq.sequence_generator import SequenceGenerator

        ids = torch.tensor(padded(sentences, True))
        lengths = ids.ne(PAD).sum(1)
        search = SequenceGenerator([model], target, beam_size=1, max_len_b=new - 1)
        with only(model.decoder.output_projection, rows):
            best = search.generate([model], {"net_input": {"src_tokens": ids, "src_lengths": lengths}})
            found = [one[0]["tokens"].tolist() for one in best]
            given = torch.tensor(padded([[EOS, *one[:-1]] for one in found], False))
            logits, _ = model(ids, src_lengths=lengths, prev_output_tokens=given)
        return [Decoded(tuple(one), behind(each, one)) for one, each in zip(found, logits, strict=True)]

    note = "the pretrained layout has no output projection: run with the decoder's embedding as one"
    return Engine(_name(model), run, decode, (note,) if bare else ())


def named(states: Sequence[Any], side: str = "") -> list[tuple[str, Any]]:
    """What enters the first layer, and what leaves each."""
    return [
        (f"{side}layers.{number - 1}" if number else f"{side}embeddings", each) for number, each in enumerate(states)
    ]


def _plain(config: Config) -> dict[str, Any]:
    return {
        name: value
        for name, value in config.fields.items()
        if name in _ARGS and isinstance(value, (bool, int, float, str))
    }


def _dictionary(size: int) -> Any:
    from fairseq.data import Dictionary

    made = Dictionary()
    for number in range(size - len(made)):
        made.add_symbol(f"w{number}")
    return made


def _plugin() -> Any:
    """The plugin's model class, registered as `--user-dir` does it, but with sys.path left as it was."""
    from fairseq.models import MODEL_REGISTRY
    from fairseq.utils import import_user_module

    if "deltalm" not in MODEL_REGISTRY:
        with same_path():
            import_user_module(Namespace(user_dir=str(_PLUGIN)))
    return MODEL_REGISTRY["deltalm"]


def _build(args: Namespace, task: Any) -> Any:
    from fairseq.models import build_model

    return build_model(args, task)


def _pretrained(subject: Subject, model: Any, kind: Any) -> Mapping[str, Any]:
    """The model's state dict out of a pretrained file, under the names of the plugin's own loader (pretrained.py)."""
    loader = import_module(f"{sys.modules[kind.__module__].__package__}.pretrained")
    theirs = model.state_dict()
    names = {key: loader.pretrained_key(key) for key in theirs if not loader.CREATED.fullmatch(key)}
    made = {key: theirs[key] for key in theirs if key.endswith(".version")}
    original = subject.found.spelled.original
    state = read(subject, {key: original[name] for key, name in names.items()})
    return {**made, **state, "decoder.output_projection.weight": state["decoder.embed_tokens.weight"]}


def _name(model: Any) -> str:
    import fairseq

    return f"fairseq {fairseq.__version__} {type(model).__name__}"
