"""Hostile config.json files as the target of an audit, `audit X --against CONFIG`, which builds transformers' class.

These run in children that have transformers loaded already: importing it is no part of the limits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.attacks.case import Build, Case
from tests.attacks.companions import CONFIG, ODD, WEIGHTS

LINES = (
    ("audit", str(WEIGHTS), "--against", "{case}/config.json"),
    ("audit", str(WEIGHTS), "--against", "{case}", "--json"),
)
TOKENS = "XLMRobertaForTokenClassification"
# Fields that decide how much is built, or that transformers treats in a way of its own.
FIELDS = (
    *("num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads", "intermediate_size", "num_labels"),
    *("max_position_embeddings", "type_vocab_size", "model_type", "architectures", "hidden_act", "layer_norm_eps"),
    *("pad_token_id", "id2label", "label2id", "dtype", "torch_dtype", "quantization_config", "attn_implementation"),
    *("_attn_implementation", "text_config", "pruned_heads", "problem_type", "transformers_version", "_name_or_path"),
    *("is_decoder", "add_cross_attention", "is_encoder_decoder", "chunk_size_feed_forward", "tie_word_embeddings"),
    *("initializer_range", "hidden_dropout_prob", "classifier_dropout", "attribute_map", "auto_map", "sub_configs"),
)
GIANT = {"huge": 10**12, "giant": 10**300, "billion": 10**9}


def config(content: bytes | Callable[[Path], None]) -> Build:
    """A folder with that config.json, and custom code beside it that runs if it is imported."""

    def build(folder: Path) -> None:
        (folder / "modeling_evil.py").write_text("open('canary', 'w')\n")
        path = folder / "config.json"
        path.write_bytes(content) if isinstance(content, bytes) else content(path)

    return build


def written(**fields: Any) -> Build:
    return config(json.dumps({**CONFIG, **fields}).encode())


def _case(what: str, wrong: str, build: Build, must: str = "survived", **more: Any) -> Case:
    return Case(f"configs/{what}", wrong, must, build, ".", lines=LINES, **more)


def _fields() -> Iterator[Case]:
    for name in FIELDS:
        for what, value in {**ODD, **GIANT}.items():
            if what in ("minus", "zero", "billion", "fraction", "text", "lists", "object") or name in FIELDS[:7]:
                case = _case(f"{name}-{what}", f"a config whose {name} is {what}", written(**{name: value}))
                yield replace(case, lines=LINES[len(what) % 2 :][:1])


def _absurd() -> Iterator[Case]:
    """Sizes that would take minutes or gigabytes."""
    unsafe = frozenset({"unsafe"})
    for what, fields in (
        ("layers", {"num_hidden_layers": 10**9}),
        ("layers-513", {"num_hidden_layers": 513}),
        ("layers-twice", {"num_hidden_layers": 300, "encoder_layers": 300}),
        ("layers-nested", {"text_config": {"vision": {"num_hidden_layers": 10**9}}}),
        ("labels", {"num_labels": 10**9}),
        ("labels-100001", {"num_labels": 100_001}),
        ("labels-nested", {"text_config": {"num_labels": 10**9}}),
    ):
        yield _case(f"absurd-{what}", f"absurd sizes ({what})", written(**fields), "refused", kinds=unsafe)
    yield _case("layers-500", "500 layers", written(num_hidden_layers=500))
    languages = [f"l{number}" for number in range(150_000)]
    many = written(architectures=["XmodModel"], model_type="xmod", languages=languages)
    yield _case("modules", "adapters for 150,000 languages", many, "refused", told="it would have over 20,000 modules")
    for name in ("vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "type_vocab_size"):
        wide = written(**{name: 10**10}, num_attention_heads=1)
        yield _case(f"wide-{name}", f"{name} of 40 GB and more", wide)
    xlm = {"architectures": ["XLMModel"], "model_type": "xlm", "n_layers": 1, "emb_dim": 1024}
    waves = written(**xlm, sinusoidal_embeddings=True, max_position_embeddings=10**7)
    yield _case("sinusoidal", "embeddings that are computed", waves)


def _code() -> Iterator[Case]:
    """Custom code, and classes that aren't models."""
    evil = {"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil", TOKENS: f"modeling_evil.{TOKENS}"}
    asks = written(architectures=["Evil"], auto_map=evil)
    yield _case("code", "a class in custom code", asks, "refused", told="needs custom code")
    hub = written(architectures=["Evil"], auto_map={"AutoModel": "evil/repo--modeling_evil.Evil"})
    yield _case("code-hub", "a class in custom code on the Hub", hub, "refused", told="needs custom code")
    known = written(auto_map=evil, model_type="evil")
    yield _case("code-beside", "custom code for a class that transformers has", known, "read")
    for what, attention in (("kernel", "kernels-community/evil"), ("repository", "evil/repo:function")):
        yield _case(f"attention-{what}", "attention from the Hub", written(_attn_implementation=attention), "survived")
    for number, name in enumerate(
        (
            *("PreTrainedModel", "AutoModel", "AutoModelForMaskedLM", "Trainer", "pipeline", "logging", "__class__"),
            *("__dict__", "XLMRobertaConfig", "is_torch_available", "", " ", "../x", "os.system", "\x1b[31m\u202e"),
            *("x" * 100_000, "XLMRobertaModel.forward", "modeling_evil.Evil", "\ud800"),
        )
    ):
        told = written(architectures=[name])
        yield _case(f"class-{number:02}", f"the class {name[:30]!a}", told, "survived" if not name else "refused")


def _documents() -> Iterator[Case]:
    documents: dict[str, bytes | Callable[[Path], None]] = {
        "empty": b"",
        "list": b"[]",
        "nan": json.dumps({**CONFIG, "layer_norm_eps": float("nan"), "x": float("-inf")}).encode(),
        "deep": b'{"a":' * 100_000,
        "deep-closed": json.dumps(CONFIG).encode()[:-1] + b',"a":' + b"[" * 900 + b"]" * 900 + b"}",
        "deep-objects": json.dumps(CONFIG).encode()[:-1] + b',"a":' + b'{"a":' * 300 + b"1" + b"}" * 301,
        "many-keys": json.dumps({**CONFIG, **{f"k{n}": n for n in range(40_000)}}).encode(),
        "labels-many": json.dumps({**CONFIG, "id2label": {str(n): "x" for n in range(90_000)}}).encode(),
        "long-text": json.dumps({**CONFIG, "hidden_act": "x" * 10_000_000}).encode(),
        "escape": json.dumps({**CONFIG, "hidden_act": "\x1b[31m\u202e\x9b", "model_type": "\x1b]0;x\x07"}).encode(),
        "twice": b'{"hidden_size": 1,' + json.dumps(CONFIG).encode()[1:],
        "bom": b"\xef\xbb\xbf" + json.dumps(CONFIG).encode(),
        "fifo": os.mkfifo,
        "zero": lambda path: path.symlink_to("/dev/zero"),
        "folder": lambda path: path.mkdir(),
        "dangling": lambda path: path.symlink_to("nowhere"),
    }
    for what, content in documents.items():
        yield _case(f"document-{what}", f"an odd config.json ({what})", config(content))
    yield _case("good", "a config that fits", written(), "read")


CASES = (*_fields(), *_absurd(), *_code(), *_documents())
