"""The transformers half: a class that is chosen by the tensors, loaded by `from_pretrained` itself.

Of a config only fields that the class itself has are used: others name code to be imported or kernels to be fetched
(`auto_map`, `attn_implementation`, `quantization_config`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from ckptconv.errors import DoesNotFit
from ckptconv.forward.batches import EOS, PAD, Batch, padded
from ckptconv.forward.config import Config
from ckptconv.forward.decode import behind
from ckptconv.forward.in_fairseq import named
from ckptconv.forward.model import Decoded, Engine, Subject
from ckptconv.forward.quiet import no_bars, only
from ckptconv.forward.tensors import read
from ckptconv.text import printable

# option of the table → what the class for it is called
_CLASSES = {
    "lm_head": "ForMaskedLM",
    "sequence_classification": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
}
# XLM's beam search over answers and its choices between texts aren't run, only the model below them.
_XLM_CLASSES = {
    "lm_head": "WithLMHeadModel",
    "sequence_classification": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
    "question_answering_simple": "ForQuestionAnsweringSimple",
}
_OUR_OWN = frozenset({"architectures", "auto_map", "dtype", "torch_dtype", "model_type", "transformers_version"})
_SHOWN = 3


def xlmr(subject: Subject, config: Config, rows: int) -> Engine:
    """XLM-R as one of transformers' XLMRoberta or XLMRobertaXL classes: that of the head that the tensors show. rows:
    of the logits that are kept. Raises DoesNotFit for missing keys, else whatever transformers raises."""
    base = "XLMRobertaXL" if subject.found.dims.get("prenorm") else "XLMRoberta"
    return _encoder(base, _CLASSES, subject, config, rows)


def xmod(subject: Subject, config: Config, rows: int) -> Engine:
    """X-MOD as one of transformers' Xmod classes. Raises as `xlmr`."""
    return _encoder("Xmod", _CLASSES, subject, config, rows)


def xlm(subject: Subject, config: Config, rows: int) -> Engine:
    """XLM as one of transformers' XLM classes. Raises as `xlmr`."""
    return _encoder("XLM", _XLM_CLASSES, subject, config, rows)


def _encoder(base: str, classes: Mapping[str, str], subject: Subject, config: Config, rows: int) -> Engine:
    import torch
    import transformers

    dims = subject.found.dims
    head = next((option for option in classes if dims.get(option)), None)
    kind = getattr(transformers, f"{base}{classes[head] if head else 'Model'}")
    labels = {"sequence_classification": "labels", "token_classification": "tags"}.get(head or "")
    own = {"num_labels": dims[labels]} if labels and not config.fields.get("id2label") else {}
    arguments = {"add_pooling_layer": dims["pooler"]} if not head and "pooler" in dims else {}
    model = _load(kind, subject, config.fields, own, **arguments)

    def run(batch: Batch) -> dict[str, Any]:
        ids = torch.tensor(padded(batch.rows, batch.left))
        there = ids.ne(PAD)
        found = model(
            input_ids=ids,
            attention_mask=there.long(),
            output_hidden_states=True,
            return_dict=True,
            **_spoken(model, batch, ids),
        )
        values = {name: state[there] for name, state in named(found.hidden_states)}
        if head == "lm_head":
            values["logits"] = found.logits[there][:, :rows].clone()
        elif head == "token_classification":
            values[f"head {head}"] = found.logits[there]
        elif head in ("question_answering", "question_answering_simple"):
            values[f"head {head}"] = torch.stack([found.start_logits, found.end_logits], -1)[there]
        elif head and batch.first_is_a_token:
            values["head"] = found.logits
        elif dims.get("pooler") and batch.first_is_a_token:
            values["pooler"] = found.pooler_output
        return values

    return Engine(_name(model), run)


def _spoken(model: Any, batch: Batch, ids: Any) -> dict[str, Any]:
    """X-MOD's lang_ids, a language for each row: places in the config's list (modeling_xmod.py:
    XmodOutput.lang_adapter). XLM's langs, one for each token (modeling_xlm.py: XLMModel.forward), in turn."""
    import torch

    if hasattr(getattr(model, "transformer", model), "lang_embeddings"):
        return {"langs": torch.arange(ids.numel()).reshape(ids.shape) % model.config.n_langs}
    if not batch.languages:
        return {}
    listed = list(model.config.languages)
    return {"lang_ids": torch.tensor([listed.index(language) for language in batch.languages])}


def deltalm(subject: Subject, config: Config, rows: int) -> Engine:
    """DeltaLM as ckptconv's own class. Raises DoesNotFit for missing keys, else whatever transformers raises."""
    import torch

    model = _load(import_module("ckptconv.hf").DeltaLMForConditionalGeneration, subject, config.fields, {})

    def run(batch: Batch) -> dict[str, Any]:
        ids, given = torch.tensor(padded(batch.rows, batch.left)), torch.tensor(padded(batch.targets, False))
        at, to = ids.ne(PAD), given.ne(PAD)
        found = model(
            input_ids=ids,
            attention_mask=at.long(),
            decoder_input_ids=given,
            output_hidden_states=True,
            use_cache=False,
            return_dict=True,
        )
        values = {name: state[at] for name, state in named(found.encoder_hidden_states, "encoder.")}
        values |= {name: state[to] for name, state in named(found.decoder_hidden_states, "decoder.")}
        values["logits"] = found.logits[to][:, :rows].clone()
        return values

    def decode(sentences: Sequence[Sequence[int]], new: int) -> list[Decoded]:
        ids = torch.tensor(padded(sentences, True))
        # as fairseq's SequenceGenerator: from </s>, never padding, no </s> at once, </s> as the last token
        with only(model.lm_head, rows):
            best = model.generate(
                input_ids=ids,
                attention_mask=ids.ne(PAD).long(),
                num_beams=1,
                do_sample=False,
                max_length=new + 1,
                min_new_tokens=1,
                suppress_tokens=[PAD],
                forced_eos_token_id=EOS,
                decoder_start_token_id=EOS,
                eos_token_id=EOS,
                pad_token_id=PAD,
            )
            found = [[number for number in row if number != PAD] for row in best[:, 1:].tolist()]
            given = torch.tensor(padded([[EOS, *one[:-1]] for one in found], False))
            logits = model(input_ids=ids, attention_mask=ids.ne(PAD).long(), decoder_input_ids=given).logits
        return [Decoded(tuple(one), behind(each, one)) for one, each in zip(found, logits, strict=True)]

    return Engine(_name(model), run, decode)


def _load(kind: Any, subject: Subject, fields: Mapping[str, Any], own: Mapping[str, Any], **arguments: Any) -> Any:
    """The model in eval mode. fields: of the checkpoint's config. own: fields that are right, whatever it says."""
    import torch

    known = set(kind.config_class().to_dict()) - _OUR_OWN
    config = kind.config_class.from_dict({name: fields[name] for name in fields if name in known} | dict(own))
    names = {key: key for key in subject.checkpoint.entries[subject.found.entry]}
    with no_bars():
        model, told = kind.from_pretrained(
            None,
            config=config,
            state_dict=read(subject, names),
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            **arguments,
        )
    missing = sorted(told["missing_keys"])
    if missing:
        shown = ", ".join(map(printable, missing[:_SHOWN])) + (" …" if len(missing) > _SHOWN else "")
        raise DoesNotFit(f"{kind.__name__} would make up {len(missing)} keys that are missing: {shown}")
    return model.eval()


def _name(model: Any) -> str:
    import transformers

    return f"transformers {transformers.__version__} {type(model).__name__}"
