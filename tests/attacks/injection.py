"""Names and texts made for terminals, browsers, spreadsheets and logs: legal in a file, harmless in every output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.attacks.archives import FLOATS, entry, index, legacy, safetensors, torch_zip
from tests.attacks.case import Case, files, holding
from tests.attacks.opcodes import EMPTY_TUPLE, NEWOBJ, mapping, name, pickled, sequence, tensor, text

TEXTS = {
    "escape": "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "osc-link": "\x1b]8;;http://x.test\x07click\x1b]8;;\x07",
    "osc-clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "c1": "\x9b31mred\x9d0;title\x9c",
    "carriage-return": "safe\rerror: all is lost",
    "backspace": "evil\x08\x08\x08\x08good",
    "newline": "w\nerror: not what it seems",
    "tabs": "a\tb\vc\fd",
    "null": "a\0b",
    "delete": "a\x7fb",
    "bidi": "\u202egnp.exe\u202c\u2066x\u2069",
    "bidi-marks": "\u200e\u200f\u061c",
    "zero-width": "a\u200bb\ufeffc\u00adc",
    "separators": "a\u2028b\u2029c\x85d",
    "surrogate-pair": "\U0001f600",
    "private": "\ue000\uf8ff\U0010fffd",
    "unassigned": "\u0378\uffff\U000e0001",
    "combining": "a" + "\u0301" * 300,
    "html": "<script>alert(1)</script>",
    "html-image": '<img src=x onerror="alert(1)">',
    "html-close": "</code></td></table><script>alert(1)</script>",
    "markdown": "[x](javascript:alert(1)) ![y](http://x.test/z) | a | b | `c` ``d`` **e**",
    "markdown-fence": "```\n# heading\n```",
    "rich-markup": "[red]x[/red][link=http://x.test]y[/link]",
    "formula": "=cmd|' /C calc'!A0",
    "formula-plus": "+1+HYPERLINK(0)",
    "formula-at": "@SUM(1)",
    "formula-minus": '-2+3",=1+1,"',
    "format": "{0.__class__} %s %n {x}",
    "shell": "$(touch canary) `touch canary`; touch canary",
    "path": "../../../etc/passwd",
    "json": '"}],"error":{"kind":"x"}}',
    "long": "k" * 10_000,
    "dots": "." * 2_000,
    "parts": "a." * 5_000 + "w",
    "numbers": "layers.999999999999.w",
    "digits": "layers." + "9" * 5_000 + ".w",
    "other-digits": "layers.\u0661\u00b2.w",
    "empty": "",
    "blank": "   ",
    "metadata": "__metadata__.x",
}


def _keys() -> Iterator[Case]:
    for what, odd in TEXTS.items():
        state = pickled(mapping((odd, tensor()), ("b.weight", tensor((2, 2), (1, 2)))))
        wrong = f"a key made for a terminal, a browser or a spreadsheet ({what})"
        yield Case(f"injection/key-{what}-zip", wrong, "read", holding(torch_zip(state)), truth="torch")
        header = {odd: entry(0, 8), "b.weight": entry(8, 16)}
        build = holding(safetensors(header, FLOATS), "x.safetensors")
        yield Case(
            f"injection/key-{what}-safetensors", wrong, "read", build, "x.safetensors", truth="safetensors", forms=False
        )


def _texts() -> Iterator[Case]:
    odd = list(TEXTS.values())
    metadata = {f"{value[:3000]}{number}": value for number, value in enumerate(odd)}
    header = {"__metadata__": {**metadata, "format": odd[0]}, "a": entry(0, 16)}
    build = holding(safetensors(header, FLOATS), "x.safetensors")
    yield Case("injection/metadata", "such texts as metadata", "read", build, "x.safetensors", forms=True)
    tied = {"__metadata__": {"ckptconv.tied": '{"\\u001b[31m": "a", "b\\n": "a", "c": "zzz"}'}, "a": entry(0, 16)}
    build = holding(safetensors(tied, FLOATS), "x.safetensors")
    yield Case("injection/tied", "such texts as tied keys", "read", build, "x.safetensors")
    deep = {"__metadata__": {"ckptconv.tied": "[" * 100_000}, "a": entry(0, 16)}
    build = holding(safetensors(deep, FLOATS), "x.safetensors")
    yield Case("injection/tied-deep", "a deep note on tied keys", "read", build, "x.safetensors")
    config = mapping(*((value[:3000] + str(number), text(value)) for number, value in enumerate(odd)))
    listed = sequence(*(text(value) for value in odd))
    two = mapping(("a.weight", tensor()), ("b.weight", tensor()))
    body = pickled(
        mapping(("model", two), ("cfg", config), ("args", listed), (odd[0], config), ("\x1b[31mversion", text(odd[1])))
    )
    for kind, file in (("zip", torch_zip), ("legacy", legacy)):
        yield Case(f"injection/config-{kind}", "such texts in a training config", "read", holding(file(body)))
    body = pickled(mapping((odd[0], two), (odd[10], two)))
    yield Case("injection/entries", "such texts as names of state dicts", "read", holding(torch_zip(body)))
    for what in ("escape", "bidi", "html", "markdown", "newline"):
        value = TEXTS[what]
        stub = name("mine." + "x" * 30, "Class") + EMPTY_TUPLE + NEWOBJ
        body = pickled(mapping(("a", tensor()), ("b", tensor()), ("b", stub), (value, text(value))))
        yield Case(f"injection/twice-{what}", "an error beside such a key", "refused", holding(torch_zip(body)))
        bad = {value: {"dtype": value, "shape": [value], "data_offsets": [0, 16]}}
        yield Case(f"injection/error-{what}", "an error about such a key", "refused", holding(safetensors(bad, FLOATS)))
        lying = pickled(mapping(("a", tensor()), (value, tensor((99,)))))
        yield Case(f"injection/view-{what}", "a view that lies under such a key", "refused", holding(torch_zip(lying)))
        shard = {"model.safetensors.index.json": index({value: value + ".safetensors"})}
        source = "model.safetensors.index.json"
        yield Case(f"injection/shard-{what}", "a shard of such a name", "refused", files(shard), source)


def _named(folder: Path) -> None:
    (folder / "\x1b[31m\u202ex.pt").write_bytes(b"PK\3\4")
    (folder / "a\nb.pt").write_bytes(b"PK\3\4")


CASES = (
    *_keys(),
    *_texts(),
    Case("injection/file-names", "a folder with such names of files", "refused", _named, "."),
    Case("injection/file-name", "such a name of a file", "refused", _named, "\x1b[31m\u202ex.pt"),
)
