"""sentencepiece's side of a comparison: models trained in the test, fairseq's ids for a text, and hard texts."""

from __future__ import annotations

import io
import json
import random
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import sentencepiece

from ckptconv.vocabulary.dictionary import SPECIAL, UNK, Dictionary
from ckptconv.vocabulary.tokenizer import TokenizerReport, export_tokenizer
from ckptconv.words import Words

XLMR = Words(
    single=("<s>", "$A", "</s>"),
    pair=("<s>", "$A", "</s>", "</s>", "$B", "</s>"),
    appended=("<mask>",),
    spm="sentencepiece.bpe.model",
)
SCRIPTS = (Path(__file__).parent / "data" / "scripts.txt").read_text(encoding="utf-8").splitlines()
ODD = [
    *("", " ", "   ", "▁", "▁▁ a▁", " a ▁b  c ", "\ta\n b\r\nc", "a\x85b \x1c c", "\x01abc", "a\x01\x02b", "\x00nul"),
    *("<s> </s> <unk> <pad>", "</s>", "a<s>b<unk>", "<s", "s>", "[UNK] <mask>"),
    *("ﾊﾝｶｸ ｶﾞｷﾞｸﾞ ﾊﾟﾋﾟ", "①②③ ℃ ㈱ ﬁne ﬂow", "ＡＢＣ～１２３", "½ ¼ ² ǆ ŉ ſ İı ß ẞ ﷺ … ...", "soft\u00adhyphen"),
    *(
        "\u200bzero\u200cwidth\u200d",
        "\ufeffbom",
        "\u200c\u0645",
        "👩‍👩‍👧‍👦 🇩🇪 ☺️ ©️",
        "三 四五 a三四五b",
        "\U000e0001\U0001f9ff",
    ),
    *(
        "e\u0301\u0323 a\u0323\u0302 e\u0323\u0302",
        "\u0301a",
        "\u0941x\u0301",
        "x\u0316\u0301 ti\xea\u0301ng \uac00\u11a8",
        "\u1112\u1161\u11ab글",
    ),
    *("\x01\u0301a", "К\u0bbf Ω\u0342", "\u1f60\u0301", "ـّـَ بّـ", "שּׁ"),
]


def trained(**options: object) -> bytes:
    """A sentencepiece model of the sentences in tests/data/scripts.txt, in which not every character is a piece."""
    model = io.BytesIO()
    defaults = {"vocab_size": 900, "hard_vocab_limit": False, "character_coverage": 0.995, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SCRIPTS * 3), model_writer=model, **{**defaults, **options}
    )
    return model.getvalue()


def symbols(model: bytes) -> list[str]:
    """Every piece that text can be cut into, in the model's order."""
    spm = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [spm.id_to_piece(i) for i in range(len(spm)) if not spm.is_control(i) and not spm.is_unknown(i)]


class Pipeline:
    """sentencepiece, then fairseq's dictionary: what fairseq-preprocess makes of a line of raw text."""

    def __init__(self, model: bytes, dictionary: Dictionary) -> None:
        self.spm = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.dictionary = dictionary

    def pieces(self, text: str) -> list[str]:
        """The words that fairseq looks up."""
        return " ".join(self.spm.encode(text, out_type=str)).split()

    def ids(self, text: str) -> list[int]:
        """Their ids, and `</s>`."""
        return [*self.pieces_ids(text), SPECIAL.index("</s>")]

    def pieces_ids(self, text: str) -> list[int]:
        """The ids alone."""
        return [self.dictionary.ids.get(piece, UNK) for piece in self.pieces(text)]

    def encode(self, *texts: str) -> list[int]:
        """What fairseq's RobertaHubInterface.encode makes of one text, or of several."""
        return [0, *(index for i, text in enumerate(texts) for index in [2] * bool(i) + self.ids(text))]

    def encode_with(self, text: str, tokens: Sequence[str]) -> list[int]:
        """What its fill_mask makes of a text with `<mask>`, and of one with any other token typed in it."""
        parts = re.split(f"({'|'.join(map(re.escape, tokens))})", text)
        ids = ([self.dictionary.ids[part]] if part in tokens else self.pieces_ids(part.rstrip()) for part in parts)
        return [0, *(index for each in ids for index in each), 2]


def texts(seed: int = 0) -> list[str]:
    """Some 2,300 lines: the scripts in all normal forms, upside down, cut up and mixed, and what is odd in itself."""
    rng = random.Random(seed)
    letters = [char for line in SCRIPTS for char in line]
    assigned = [chr(c) for c in range(0x20, 0x30000) if unicodedata.category(chr(c)) not in ("Cn", "Co", "Cs")]
    mixed = ("".join(rng.choices(letters, k=rng.randint(1, 40))) for _ in range(600))
    wild = ("".join(rng.choices(assigned, k=rng.randint(1, 12))) for _ in range(600))
    joined = (
        rng.choice(SCRIPTS)[-12:] + rng.choice(["", " ", "  ", "三"]) + rng.choice(SCRIPTS)[:12] for _ in range(600)
    )
    return [*ODD, *(text for line in SCRIPTS for text in _forms(line)), *mixed, *wild, *joined]


def _forms(line: str) -> Iterator[str]:
    yield line
    yield from (unicodedata.normalize(form, line) for form in ("NFC", "NFD", "NFKC", "NFKD"))
    yield from (line.upper(), line[::-1], line.replace(" ", "  ") + " ", line.replace(" ", "\u3000"))
    yield "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in line)  # full width


def marked(tokens: Sequence[str], seed: int = 0) -> list[str]:
    """A line of each script with each of `tokens` in front, in the middle of a word, between words, and at the end."""
    rng = random.Random(seed)
    made = []
    for line, token in ((line, token) for line in SCRIPTS for token in tokens):
        at = rng.randrange(len(line))
        made += [line[:at] + token + line[at:], f"{line[:at]} {token} {line[at:]}", token + line, f"{token} {line}"]
        made += [line + token, f"{line} {token}", f"{token}{token} {rng.choice(tokens)}"]
    return made


def export_xlmr(folder: Path, model: bytes, dictionary: Dictionary) -> TokenizerReport:
    """A directory as `convert` makes it."""
    folder.mkdir(exist_ok=True)
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    (folder / "config.json").write_text(json.dumps({"model_type": "xlm-roberta"}))
    return export_tokenizer(folder / "sentencepiece.bpe.model", dictionary, len(dictionary) + 1, folder, 512, XLMR)


def xlmr(model: bytes, *added: str) -> Dictionary:
    return Dictionary((*SPECIAL, *symbols(model), *XLMR.appended, *added))
