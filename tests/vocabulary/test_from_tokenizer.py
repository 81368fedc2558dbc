"""Dictionary and sentencepiece model from tokenizers that transformers really saved, and from ours."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import transformers
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer, XLMRobertaTokenizer, XLMRobertaTokenizerFast

from ckptconv.errors import Unsupported, VocabularyMismatch
from ckptconv.vocabulary.dictionary import SPECIAL, Dictionary
from ckptconv.vocabulary.from_tokenizer import export_dictionary, spm_from_tokenizer
from ckptconv.vocabulary.spm import SpmModel
from ckptconv.vocabulary.tokenizer import export_tokenizer
from ckptconv.words import DELTALM
from tests.spm_side import SCRIPTS, XLMR, Pipeline, export_xlmr, marked, symbols, texts, trained, xlmr


# From the sentencepiece model alone, as somebody who trains a new model of this kind begins.
@pytest.fixture(scope="module", params=[XLMRobertaTokenizer, XLMRobertaTokenizerFast])
def made_by_transformers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("made")
    (folder / "sentencepiece.bpe.model").write_bytes(trained())
    (folder / "config.json").write_text(json.dumps({"model_type": "xlm-roberta"}))
    return request.param.from_pretrained(folder), folder


def test_the_dictionary_of_what_transformers_made(made_by_transformers: tuple[Any, Path], tmp_path: Path) -> None:
    tokenizer, folder = made_by_transformers
    tokenizer.save_pretrained(tmp_path)
    for directory in (folder, tmp_path):
        found = export_dictionary(directory, XLMR)
        assert found == xlmr(trained())
        assert found.symbols == tuple(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    pipeline = Pipeline(trained(), export_dictionary(tmp_path, XLMR))
    assert [tokenizer(line)["input_ids"] for line in SCRIPTS] == [pipeline.encode(line) for line in SCRIPTS]


def test_tokens_added_in_transformers_come_along(made_by_transformers: tuple[Any, Path], tmp_path: Path) -> None:
    folder = made_by_transformers[1]
    tokenizer = type(made_by_transformers[0]).from_pretrained(folder)
    tokenizer.add_tokens(["newword", "zwölf"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<ent>"]})
    tokenizer.add_tokens(["ገጽ", "▁ a"])
    tokenizer.save_pretrained(tmp_path)
    found = export_dictionary(tmp_path, XLMR)
    assert found == xlmr(trained(), "newword", "zwölf", "<ent>", "ገጽ", "▁ a")
    export_xlmr(tmp_path / "again", trained(), found)
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    lines = marked(("newword", "zwölf", "<ent>", "ገጽ"))
    # Where a space comes before the token, the fast class of transformers 4 alone leaves a ▁ there.
    joined = [line for line in lines if not any(f" {word}" in line for word in ("newword", "zwölf", "<ent>", "ገጽ"))]
    assert [again(line)["input_ids"] for line in joined] == [tokenizer(line)["input_ids"] for line in joined]
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerFast) or transformers.__version__ >= "5":
        assert [again(line)["input_ids"] for line in lines] == [tokenizer(line)["input_ids"] for line in lines]
    assert {token.content: token.special for token in again.added_tokens_decoder.values()}["zwölf"] is False
    assert export_dictionary(tmp_path / "again", XLMR) == found


def test_tokens_beside_a_sentencepiece_model_in_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "sentencepiece.bpe.model").write_bytes(trained())
    last = xlmr(trained()).ids["<mask>"]
    (tmp_path / "added_tokens.json").write_text(json.dumps({"zwölf": last + 2, "<ent>": last + 1, "<mask>": last}))
    assert export_dictionary(tmp_path, XLMR) == xlmr(trained(), "<ent>", "zwölf")


def saved_fast(folder: Path, model: bytes) -> dict[str, Any]:
    """tokenizer.json as this version of transformers saves it for a sentencepiece model; the model itself is gone."""
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    XLMRobertaTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    (folder / "sentencepiece.bpe.model").unlink()
    content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    return content


def rewritten(folder: Path, content: object) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")


def as_published(content: dict[str, Any]) -> dict[str, Any]:
    """The same in the spelling of the tokenizer.json that XLM-R was published with (tokenizers 0.8)."""
    charsmap = next(step for step in steps(content["normalizer"]) if step["type"] == "Precompiled")
    metaspace = {"type": "Metaspace", "replacement": "▁", "str_rep": "▁", "add_prefix_space": True}
    model = {"unk_id": 3, "vocab": content["model"]["vocab"]}
    added = [{**token, "normalized": token["content"] == "<mask>"} for token in content["added_tokens"]]
    splits = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]}
    changed = {"normalizer": charsmap, "pre_tokenizer": splits, "decoder": metaspace}
    return {**content, **changed, "model": model, "added_tokens": added}


def steps(normalizer: dict[str, Any]) -> list[dict[str, Any]]:
    return list(normalizer.get("normalizers", [normalizer]))


def test_the_published_spelling_is_read(tmp_path: Path) -> None:
    rewritten(tmp_path, as_published(saved_fast(tmp_path, trained())))
    assert XLMRobertaTokenizerFast.from_pretrained(tmp_path)("a <mask>")["input_ids"][-2] == len(symbols(trained())) + 4
    assert export_dictionary(tmp_path, XLMR) == xlmr(trained())
    assert cuts(spm_from_tokenizer(tmp_path, XLMR)) == cuts(trained())


def written(folder: Path, model: bytes) -> Path:
    (folder / "spm.model").write_bytes(model)
    return folder / "spm.model"


def cuts(model: bytes) -> list[list[str]]:
    """Every text's pieces, random ones among them."""
    rng = random.Random(7)
    characters = sorted({char for line in SCRIPTS for char in line} | set("龘☃ 　\u0301"))
    lines = [*texts(3), "xy <ud>a xyx", "x<ud>"] + [
        "".join(rng.choices(characters, k=rng.randint(1, 60))) for _ in range(3000)
    ]
    return SentencePieceProcessor(model_proto=model).encode(lines, out_type=str)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalization_rule_name": "nmt_nfkc_cf"},
        {"user_defined_symbols": ["<ud>", "xy"], "control_symbols": ["<c>"]},
        {"character_coverage": 1.0, "vocab_size": 1300},
    ],
)
def test_the_sentencepiece_model_is_rebuilt(options: dict[str, Any], tmp_path: Path) -> None:
    model = trained(**options)
    saved_fast(tmp_path, model)
    rebuilt = spm_from_tokenizer(tmp_path, XLMR)
    assert cuts(rebuilt) == cuts(model)
    old, new = SentencePieceProcessor(model_proto=model), SentencePieceProcessor(model_proto=rebuilt)
    assert [new.id_to_piece(i) for i in range(len(new))] == [old.id_to_piece(i) for i in range(len(old))]
    assert SpmModel.read(written(tmp_path, rebuilt)).pieces == SpmModel.read(written(tmp_path, model)).pieces
    # And so transformers 4, which counts its pieces, gives the same ids with it.
    (tmp_path / "sentencepiece.bpe.model").write_bytes(rebuilt)
    assert export_dictionary(tmp_path, XLMR).symbols[4:] == (
        *(old.id_to_piece(i) for i in range(3, len(old))),
        "<mask>",
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_dummy_prefix": False},
        {"add_dummy_prefix": False, "remove_extra_whitespaces": False},
        {"user_defined_symbols": ["<ud>", "xy"], "control_symbols": ["<c>"]},
        {"split_by_whitespace": False},
    ],
)
@pytest.mark.parametrize("words", [XLMR, DELTALM], ids=["xlmr", "deltalm"])
def test_the_sentencepiece_model_is_rebuilt_from_our_tokenizer(options: Any, words: Any, tmp_path: Path) -> None:
    model = trained(**options)
    dictionary = Dictionary((*SPECIAL, *symbols(model), "<2de>", "madeupword0000")).with_appended(words.appended)
    (tmp_path / "spm.model").write_bytes(model)
    export_tokenizer(tmp_path / "spm.model", dictionary, len(dictionary), tmp_path, 512, words)
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    for folder in (tmp_path, tmp_path / "saved"):
        rebuilt = spm_from_tokenizer(folder, words)
        ours, theirs = Pipeline(rebuilt, dictionary), Pipeline(model, dictionary)
        lines = [*texts(), "<2de> a<2de>", "madeupword0000"]
        assert [line for line in lines if ours.ids(line) != theirs.ids(line)] == []
        assert cuts(rebuilt) == cuts(model)
        assert all(ours.spm.is_control(dictionary.ids[symbol] - 1) for symbol in ("<2de>", "madeupword0000"))


def changed(content: dict[str, Any], *keys: str, to: object) -> dict[str, Any]:
    key, *rest = keys
    return {**content, key: changed(content[key], *rest, to=to) if rest else to}


NO_RULES = {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}


@pytest.mark.parametrize(
    ("keys", "to", "error", "said"),
    [
        (["model", "type"], "BPE", Unsupported, "its model is BPE, not Unigram"),
        (["model", "vocab"], {"<s>": 0}, Unsupported, "not Unigram"),
        (["model", "byte_fallback"], True, Unsupported, "falls back to bytes"),
        (["normalizer"], NO_RULES, Unsupported, "no precompiled_charsmap"),
        (["normalizer"], None, Unsupported, "no precompiled_charsmap"),
        (["pre_tokenizer"], {"type": "Whitespace"}, Unsupported, "neither transformers' for XLM-R nor ckptconv's"),
        (["pre_tokenizer"], None, Unsupported, "neither transformers' for XLM-R nor ckptconv's"),
        (["normalizer"], {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, VocabularyMismatch, "is damaged"),
        (["normalizer"], {"type": "Precompiled", "precompiled_charsmap": "?"}, VocabularyMismatch, "is damaged"),
        (["normalizer"], {"type": "Sequence"}, VocabularyMismatch, "is damaged"),
        (["model", "vocab"], [["<s>", 0]], VocabularyMismatch, "doesn't begin with <s>"),
        (["model", "vocab"], [[7, 0]], VocabularyMismatch, "is damaged"),
        (["model", "vocab"], [[s, 0] for s in (*SPECIAL, "a", "a")], VocabularyMismatch, "has a token twice"),
        (["model", "vocab"], [[s, 0] for s in (*SPECIAL, "")], VocabularyMismatch, "or an empty one"),
        (["model", "vocab"], [[s, 0] for s in (*SPECIAL, "\ud800")], VocabularyMismatch, "is damaged"),
        (["model", "vocab"], [["<s>", 10**400]], VocabularyMismatch, "is damaged"),
        (["model", "unk_id"], 0, VocabularyMismatch, "doesn't begin with <s>"),
        (["added_tokens"], [{"id": 1}], VocabularyMismatch, "is damaged"),
        (["model"], None, VocabularyMismatch, "is damaged"),
    ],
)
def test_a_tokenizer_that_is_not_understood_is_told(
    keys: list[str], to: object, error: type[Exception], said: str, tmp_path: Path
) -> None:
    rewritten(tmp_path, changed(saved_fast(tmp_path, trained()), *keys, to=to))
    with pytest.raises(error, match=said):
        spm_from_tokenizer(tmp_path, XLMR)


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
LOWER = {"type": "Lowercase"}


@pytest.mark.parametrize(
    ("before", "after", "splits"),
    [
        ([], [LOWER], [METASPACE]),
        ([LOWER], [], [METASPACE]),
        ([], [], [{"type": "Digits"}, METASPACE]),
        ([], [], [METASPACE, {"type": "WhitespaceSplit"}]),
        ([], [], [{**METASPACE, "prepend_scheme": "first"}]),
        ([], [], [{**METASPACE, "replacement": "_"}]),
        ([], [], [{**METASPACE, "split": False}]),
        ([], [], [{"type": "Metaspace", "replacement": "▁", "add_prefix_space": False}]),
    ],
)
def test_steps_that_sentencepiece_lacks_are_told(before: Any, after: Any, splits: Any, tmp_path: Path) -> None:
    content = as_published(saved_fast(tmp_path, trained()))
    steps = {"type": "Sequence", "normalizers": [*before, content["normalizer"], *after]}
    rewritten(
        tmp_path, {**content, "normalizer": steps, "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits}}
    )
    with pytest.raises(Unsupported, match="neither transformers' for XLM-R nor ckptconv's"):
        spm_from_tokenizer(tmp_path, XLMR)


def test_our_tokenizer_of_a_dictionary_without_some_pieces_is_not_understood(tmp_path: Path) -> None:
    model = trained()
    dictionary = Dictionary((*SPECIAL, *symbols(model)[:-40])).with_appended(XLMR.appended)
    report = export_xlmr(tmp_path, model, dictionary)
    assert any("AutoTokenizer" in note for note in report.notes)
    with pytest.raises(Unsupported, match="neither transformers' for XLM-R nor ckptconv's"):
        spm_from_tokenizer(tmp_path, XLMR)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, r"has neither a tokenizer.json nor a sentencepiece.bpe.model"),
        ({"sentencepiece.bpe.model": b"x"}, "is not a sentencepiece model"),
        ({"sentencepiece.bpe.model": trained(pad_id=0, unk_id=1, bos_id=2, eos_id=3)}, "begins with <pad>, <unk>, <s>"),
        ({"sentencepiece.bpe.model": trained(), "added_tokens.json": b"[]"}, "is not a tokenizer's added_tokens.json"),
        ({"sentencepiece.bpe.model": trained(), "added_tokens.json": b'{"a": null}'}, "which tokens were added"),
        ({"sentencepiece.bpe.model": trained(), "added_tokens.json": b'{"a": 5000}'}, "5000 has one"),
        (
            {"sentencepiece.bpe.model": trained(), "tokenizer_config.json": b'{"added_tokens_decoder": {"902": 3}}'},
            "which tokens were added",
        ),
    ],
)
def test_a_directory_that_gives_no_dictionary_is_told(files: dict[str, bytes], said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(VocabularyMismatch, match=said):
        export_dictionary(tmp_path, XLMR)


def test_a_tokenizer_without_mask_gets_it_at_the_end(tmp_path: Path) -> None:
    content = {"model": {"vocab": [[symbol, 0] for symbol in (*SPECIAL, "▁a")]}}
    rewritten(tmp_path, content)
    assert export_dictionary(tmp_path, XLMR).symbols == (*SPECIAL, "▁a", "<mask>")
