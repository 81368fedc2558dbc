"""Good weights with hostile files beside them: configs, dictionaries, sentencepiece models, tokenizers, labels."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.attacks.case import Build, Case

GOLDEN = Path(__file__).parent.parent / "golden"
CONFIG: dict[str, Any] = json.loads((GOLDEN / "hf_xlmr_tokcls.config.json").read_text())
WEIGHTS = GOLDEN / "hf_xlmr_tokcls_transformers-5.23.safetensors"
LINES = (
    ("inspect", "{case}", "--config", "--json"),
    ("inspect", "{case}", "--config"),
    ("inspect", "{case}", "--config", "--markdown"),
    ("convert", "{case}", "{out}/x", "--to", "xlmr/fairseq"),
    ("convert", "{case}", "{out}/x", "--to", "xlmr/fairseq", "--dry-run", "--json"),
    ("validate", "{case}", "--json"),
    ("audit", "{case}", "--against", "xlmr/hf", "--json"),
)
SAME = ("convert", "{case}", "{out}/x", "--to", "same")
ODD: dict[str, Any] = {
    "null": None,
    "true": True,
    "minus": -1,
    "zero": 0,
    "huge": 10**12,
    "giant": 10**300,
    "fraction": 1e308,
    "text": "x" * 300,
    "escape": "\x1b[31m\u202e<script>",
    "list": [],
    "lists": [[[1]]],
    "object": {"a": {"b": 1}},
}


def beside(name: str, content: bytes | Callable[[Path], None]) -> Build:
    """The weights, a good config, and one hostile file."""

    def build(folder: Path) -> None:
        shutil.copy(WEIGHTS, folder / "model.safetensors")
        if name != "config.json":
            (folder / "config.json").write_text(json.dumps(CONFIG))
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            content(folder / name)

    return build


def _case(
    what: str, wrong: str, build: Build, lines: tuple[tuple[str, ...], ...] = LINES, must: str = "survived"
) -> Case:
    return Case(f"companions/{what}", wrong, must, build, ".", lines=lines)


def _fields() -> Iterator[Case]:
    for name in CONFIG:
        for what, value in ODD.items():
            if what in ("huge", "object", "minus", "escape", "lists") or name in ("num_hidden_layers", "id2label"):
                data = json.dumps({**CONFIG, name: value}).encode()
                yield _case(
                    f"config-{name}-{what}", f"a config whose {name} is {what}", beside("config.json", data), LINES[:5]
                )


def _documents() -> Iterator[Case]:
    documents: dict[str, bytes | Callable[[Path], None]] = {
        "empty": b"",
        "list": b"[]",
        "number": b"1e999",
        "nan": json.dumps({**CONFIG, "layer_norm_eps": float("nan"), "x": float("inf")}).encode(),
        "twice": b'{"hidden_size": 1,' + json.dumps(CONFIG).encode()[1:],
        "deep-lists": b'{"a":' + b"[" * 200_000,
        "deep-closed": b'{"a":' + b"[" * 900 + b"]" * 900 + b"}",
        "deep-objects": b'{"a":' * 100_000,
        "long-nested": (b'{"' + b"k" * 100_000 + b'":') * 90 + b"1" + b"}" * 90,
        "many": b'{"a":[' + b"[]," * 5_000_000 + b"1]}",
        "many-keys": json.dumps({f"k{n}": n for n in range(240_000)}).encode(),
        "digits": b'{"hidden_size":' + b"1" * 100_000 + b"}",
        "utf-16": json.dumps(CONFIG).encode("utf-16"),
        "bom": b"\xef\xbb\xbf" + json.dumps(CONFIG).encode(),
        "null-bytes": bytes(1000),
        "large": b'{"a":"' + b"x" * 30_000_000 + b'"}',
        "surrogates": json.dumps({**CONFIG, "x": "\ud800", "\udfff": 1}).encode(),
        "labels-many": json.dumps({**CONFIG, "id2label": {str(n): "x" for n in range(200_000)}}).encode(),
        "labels-odd": json.dumps({**CONFIG, "id2label": {"a": 1, "": [], "-1": None}}).encode(),
        "fifo": os.mkfifo,
        "zero": lambda path: path.symlink_to("/dev/zero"),
        "folder": lambda path: path.mkdir(),
        "dangling": lambda path: path.symlink_to("nowhere"),
        "itself": lambda path: path.symlink_to("config.json"),
        "holes": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 40),
    }
    for what, content in documents.items():
        yield _case(
            f"config-{what}", f"a config.json that is none ({what})", beside("config.json", content), (*LINES, SAME)
        )


def _words() -> Iterator[Case]:
    words: dict[str, bytes | Callable[[Path], None]] = {
        "empty": b"",
        "binary": bytes(range(256)) * 10,
        "escape": "\x1b[31m\u202e 1\n<script> 1\n".encode(),
        "twice": b"a 1\na 1\n",
        "no-counts": b"a\nb\n",
        "digits": b"a " + b"1" * 100_000 + b"\n",
        "one-line": b"a" * 30_000_000,
        "many": b"a 1 #fairseq:overwrite\n" * 2_500_000,
        "deep": b"[" * 200_000,
        "deep-object": b'{"model":{"vocab":' * 50_000,
        "nested": b'{"model":{"vocab":{"a":{"b":1}}},"added_tokens":{"x":1}}',
        "ids": b'{"model":{"vocab":{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3,"x":1000000000000}}}',
        "ids-negative": b'{"model":{"vocab":{"<s>":-1,"<pad>":1,"</s>":2,"<unk>":3}}}',
        "lists": b'{"model":{"vocab":[' + b"[]," * 3_500_000 + b"[]]}}",
        "surrogates": b'{"model":{"vocab":[["\\ud800",0]]},"added_tokens":[{"id":0,"content":"\\udfff"}]}',
        "protobuf": b"\x0a\xff\xff\xff\xff\x0f" + bytes(100),
        "protobuf-deep": b"\x0a\x02\x0a\x00" * 1000,
        "fifo": os.mkfifo,
        "zero": lambda path: path.symlink_to("/dev/zero"),
        "folder": lambda path: path.mkdir(),
        "dangling": lambda path: path.symlink_to("nowhere"),
    }
    for name, option in (
        *(("dict.txt", "--dict"), ("sentencepiece.bpe.model", "--spm"), ("tokenizer.json", "")),
        *(("tokenizer_config.json", ""), ("label.dict.txt", "--labels")),
    ):
        for what, content in words.items():
            told = (option, f"{{case}}/{name}") if option else ()
            lines = (
                ("convert", "{case}", "{out}/x", "--to", "xlmr/fairseq", *told),
                ("convert", "{case}", "{out}/x", "--to", "xlmr/fairseq", "--json"),
                ("validate", "{case}", "--json", *told),
                ("validate", "{case}", "--tokenizer", "{case}"),
            )
            yield _case(f"{name}-{what}", f"a {name} that is none ({what})", beside(name, content), lines)


def _copied() -> Iterator[Case]:
    """What `--to same` takes along."""

    def many(folder: Path) -> None:
        beside("x.txt", b"x")(folder)
        for number in range(40):
            with (folder / f"n{number}.txt").open("wb") as file:
                file.truncate(60_000_000)

    yield _case("copied-holes", "40 texts of 60 MB that are holes", many, (SAME,), "read")

    def linked(folder: Path) -> None:
        beside("x.txt", b"x")(folder)
        secret = folder.parent / "secret.txt"
        secret.write_text("secret")
        (folder / "notes.txt").symlink_to(secret)
        (folder / "passwd.txt").symlink_to("/etc/passwd")
        os.mkfifo(folder / "pipe.txt")

    yield _case("copied-links", "links to other files of the machine", linked, (SAME,), "read")


CASES = (*_fields(), *_documents(), *_words(), *_copied())
