"""The real fairseq on dictionaries and sentencepiece models of ours: its task, its encoder, its fill_mask."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fairseq")

import torch
from fairseq.models.roberta import RobertaModel
from fairseq.models.roberta.hub_interface import RobertaHubInterface
from fairseq.tasks.masked_lm import MaskedLMConfig, MaskedLMTask
from transformers import AutoTokenizer, XLMRobertaTokenizer

from ckptconv.vocabulary.dictionary import SPECIAL, Dictionary
from ckptconv.vocabulary.from_tokenizer import export_dictionary, spm_from_tokenizer
from tests.fairseq_side import quiet
from tests.spm_side import SCRIPTS, XLMR, Pipeline, export_xlmr, marked, symbols, texts, trained, xlmr

ADDED = ("<ent>", "newword", "[de_DE]", "zwölf", "ገጽ")


class InFairseq(RobertaHubInterface):
    """fairseq's own interface to a tiny XLM-R for the dict.txt and the sentencepiece model in `folder`."""

    def __init__(self, folder: Path) -> None:
        sizes = {"encoder_layers": 1, "encoder_embed_dim": 4, "encoder_ffn_embed_dim": 4, "encoder_attention_heads": 1}
        bpe = argparse.Namespace(
            bpe="sentencepiece",
            sentencepiece_model=str(folder / "sentencepiece.bpe.model"),
            sentencepiece_enable_sampling=False,
            sentencepiece_alpha=None,
        )
        with quiet():
            task = MaskedLMTask.setup_task(MaskedLMConfig(data=str(folder), tokens_per_sample=512))
            model = RobertaModel.build_model(argparse.Namespace(**sizes, max_positions=512), task)
        super().__init__(argparse.Namespace(bpe=bpe), task, model.eval())
        self.symbols: list[str] = task.source_dictionary.symbols
        self.seen: list[list[int]] = []
        model.register_forward_pre_hook(lambda _, inputs: self.seen.append(inputs[0][0].tolist()))

    def ids(self, *lines: str) -> list[int]:
        return list(self.encode(*lines).tolist())

    def filled(self, text: str) -> list[int]:
        """The ids that its fill_mask gives to the model."""
        with torch.no_grad():
            self.fill_mask(text, topk=1)
        return self.seen.pop()


def written(folder: Path, model: bytes, dictionary: Dictionary) -> Path:
    """A directory as `convert --to fairseq` makes it."""
    folder.mkdir(exist_ok=True)
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    dictionary.without_appended(XLMR.appended).write(folder / "dict.txt")
    return folder


@pytest.fixture(scope="module", params=[(), ADDED], ids=["published", "added"])
def sides(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, InFairseq, Pipeline]:
    """HF's tokenizer, fairseq, and what stands for fairseq elsewhere."""
    model, folder = trained(), tmp_path_factory.mktemp("both")
    dictionary = xlmr(model, *request.param)
    export_xlmr(folder / "hf", model, dictionary)
    fairseq = InFairseq(written(folder / "fairseq", model, dictionary))
    return AutoTokenizer.from_pretrained(folder / "hf"), fairseq, Pipeline(model, dictionary)


def test_fairseqs_task_has_the_same_dictionary(sides: tuple[Any, InFairseq, Pipeline]) -> None:
    tokenizer, fairseq, pipeline = sides
    assert tuple(fairseq.symbols) == pipeline.dictionary.symbols
    assert fairseq.task.mask_idx == tokenizer.mask_token_id
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))] == fairseq.symbols


def test_ids_are_the_real_fairseqs(sides: tuple[Any, InFairseq, Pipeline]) -> None:
    tokenizer, fairseq, pipeline = sides
    for line in texts():
        assert fairseq.ids(line) == pipeline.encode(line), ascii(line)
        if not any(token in line for token in (*SPECIAL, "<mask>")):
            assert tokenizer(line)["input_ids"] == fairseq.ids(line), ascii(line)


def test_pairs_are_the_real_fairseqs(sides: tuple[Any, InFairseq, Pipeline]) -> None:
    tokenizer, fairseq, pipeline = sides
    for first, second in zip(SCRIPTS, SCRIPTS[::-1], strict=True):
        assert tokenizer(first, second)["input_ids"] == fairseq.ids(first, second) == pipeline.encode(first, second)


def test_masks_are_the_real_fairseqs(sides: tuple[Any, InFairseq, Pipeline]) -> None:
    tokenizer, fairseq, pipeline = sides
    lines = [line for line in marked(["<mask>"]) if line.count("<mask>") == 1]
    for line in [*lines, "<mask>", " <mask> ", "a <mask>\u3000b"]:
        ids = fairseq.filled(line)
        assert tokenizer(line)["input_ids"] == ids == pipeline.encode_with(line, ["<mask>"]), ascii(line)
        assert fairseq.task.mask_idx in ids
    assert len(lines) > 300


def test_added_tokens_are_found_in_fairseqs_dictionary(sides: tuple[Any, InFairseq, Pipeline]) -> None:
    tokenizer, fairseq, pipeline = sides
    dictionary = fairseq.task.source_dictionary
    tokens = [symbol for symbol in ("<mask>", *ADDED) if symbol in dictionary]
    for line in marked(tokens):
        pieces = " ".join(symbol for symbol in tokenizer.tokenize(line))
        ids = dictionary.encode_line(f"<s> {pieces} </s>", append_eos=False, add_if_not_exist=False).tolist()
        assert tokenizer(line)["input_ids"] == ids == pipeline.encode_with(line, tokens), ascii(line)


def test_made_up_words_keep_mask_at_its_place(tmp_path: Path) -> None:
    model = trained()
    dictionary = xlmr(model).extended(len(xlmr(model)) + 6)
    fairseq = InFairseq(written(tmp_path, model, dictionary))
    assert tuple(fairseq.symbols) == dictionary.symbols
    assert fairseq.task.mask_idx == len(symbols(model)) + len(SPECIAL)


def test_from_transformers_to_fairseq_without_the_original_files(tmp_path: Path) -> None:
    """transformers 5 saved it: dictionary and sentencepiece model are made of its tokenizer.json alone."""
    source, saved = tmp_path / "source", tmp_path / "saved"
    source.mkdir()
    (source / "sentencepiece.bpe.model").write_bytes(trained())
    (source / "config.json").write_text(json.dumps({"model_type": "xlm-roberta"}))
    tokenizer = XLMRobertaTokenizer.from_pretrained(source)
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(saved)
    assert not (saved / "sentencepiece.bpe.model").exists()
    dictionary = export_dictionary(saved, XLMR)
    fairseq = InFairseq(written(tmp_path / "fairseq", spm_from_tokenizer(saved, XLMR), dictionary))
    assert fairseq.symbols == [tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))]
    original = Pipeline(trained(), dictionary)
    for line in texts():
        assert fairseq.ids(line) == original.encode(line), ascii(line)
    for line in SCRIPTS:
        assert tokenizer(line)["input_ids"] == fairseq.ids(line)
