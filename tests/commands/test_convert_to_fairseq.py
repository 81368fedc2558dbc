"""HF → fairseq in the real fairseq: it loads strictly, computes the same numbers and generates the same text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

fairseq = pytest.importorskip(
    "fairseq", reason="fairseq is an optional extra, and transformers 4's environment lacks it"
)

from argparse import Namespace  # noqa: E402

from omegaconf import OmegaConf  # noqa: E402
from sentencepiece import SentencePieceProcessor  # noqa: E402
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, Seq2SeqTrainer, Seq2SeqTrainingArguments  # noqa: E402

import ckptconv.hf  # noqa: E402
from tests import fairseq_side  # noqa: E402
from tests.commands.conftest import FINETUNED, GOLDEN, NUMBERS, run  # noqa: E402

PAD = 1


def sentences() -> list[str]:
    return (NUMBERS / "test.de").read_text(encoding="utf-8").splitlines()


def translate(folder: Path, lines: list[str], beam: int = 1) -> list[str]:
    """What fairseq generates with the checkpoint, dictionaries and sentencepiece model of a directory."""
    (model,), _, task = fairseq_side.load(folder)
    spm = SentencePieceProcessor(model_file=str(folder / "spm.model"))
    ids = [
        task.source_dictionary.encode_line(" ".join(spm.encode(line, out_type=str)), add_if_not_exist=False).tolist()
        for line in lines
    ]
    best = [found[0].tokens for found in fairseq_side.generate(model, ids, beam=beam)]
    pieces = [[task.target_dictionary[token] for token in tokens if token > 2] for tokens in best]
    return [spm.decode(words) for words in pieces]


@pytest.mark.parametrize("beam", [1, 5])
def test_there_and_back_generates_what_the_original_generated(back_dir: Path, generated, beam: int):
    assert translate(back_dir, sentences(), beam) == [row["hypothesis"] for row in generated(beam)]


def test_a_model_fine_tuned_in_transformers_goes_to_fairseq(hf_dir: Path, tmp_path: Path):
    """A few real steps first, so that zeros and ties of the start hide nothing."""
    assert ckptconv.hf.DeltaLMForConditionalGeneration
    model = AutoModelForSeq2SeqLM.from_pretrained(hf_dir)
    tokenizer = AutoTokenizer.from_pretrained(hf_dir)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    english = (NUMBERS / "test.en").read_text(encoding="utf-8").splitlines()
    pairs = [
        {**tokenizer(german), "labels": tokenizer(text_target=text)["input_ids"]}
        for german, text in zip(sentences()[:32], english[:32], strict=True)
    ]
    from transformers import DataCollatorForSeq2Seq

    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=6,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
    )
    collator = DataCollatorForSeq2Seq(tokenizer, model)
    Seq2SeqTrainer(model, arguments, train_dataset=pairs, data_collator=collator).train()
    model.eval()
    assert all(
        not torch.equal(value, before[key]) for key, value in model.state_dict().items() if "k_proj.bias" not in key
    )
    model.save_pretrained(tmp_path / "tuned")
    tokenizer.save_pretrained(tmp_path / "tuned")
    (tmp_path / "tuned" / "spm.model").write_bytes((hf_dir / "spm.model").read_bytes())

    run(tmp_path / "tuned", tmp_path / "fairseq", "fairseq")
    (theirs,), _, _ = fairseq_side.load(tmp_path / "fairseq")
    batch = tokenizer(sentences()[:8], padding=True, return_tensors="pt")
    previous = torch.tensor([[2, 7, 9, 11]] * 8)
    with torch.no_grad():
        ours = model(**batch, decoder_input_ids=previous).logits
    for source in (batch["input_ids"], left_padded(batch["input_ids"])):
        expected = fairseq_side.forward(theirs, source, previous)["logits"]
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        found = model.generate(**tokenizer(sentences(), padding=True, return_tensors="pt"), num_beams=1)
    assert translate(tmp_path / "fairseq", sentences()) == tokenizer.batch_decode(found, skip_special_tokens=True)


def left_padded(batch: torch.Tensor) -> torch.Tensor:
    return torch.stack([row.roll(int((row == PAD).sum()), 0) for row in batch])


@pytest.mark.parametrize(
    "flags",
    [
        {"share_all_embeddings": True},
        {"share_decoder_input_output_embed": True},
        {},
        {"share_all_embeddings": True, "layernorm_embedding": False},
        {"share_all_embeddings": True, "encoder_normalize_before": True, "decoder_normalize_before": True},
        {"encoder_normalize_before": True, "vocab": (40, 50), "max_source_positions": 20},
        {"no_scale_embedding": False, "share_all_embeddings": True, "activation_fn": "relu"},
        {"encoder_ffn_embed_dim": 48, "decoder_ffn_embed_dim": 80, "encoder_layers": 1, "decoder_layers": 3},
    ],
    ids=str,
)
def test_every_shape_of_fairseq_model_computes_the_same_in_hf_and_comes_back(flags: dict, tmp_path: Path):
    theirs = fairseq_side.build(**{"vocab": 44, **flags})
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    known = {key: value for key, value in flags.items() if key != "vocab"}
    model = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "no_scale_embedding": True, **known}
    torch.save({"cfg": {"model": model}, "model": theirs.state_dict()}, tmp_path / "in.pt")
    run(tmp_path / "in.pt", tmp_path / "hf", "hf")
    ours = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf").eval()
    source = torch.tensor([[5, 9, 11, 30, 2], [1, 1, 7, 8, 2]])
    previous = torch.tensor([[2, 6, 7, 8], [2, 10, 11, 12]])
    with torch.no_grad():
        logits = ours(input_ids=source, attention_mask=(source != PAD).long(), decoder_input_ids=previous).logits
    expected = fairseq_side.forward(theirs, source, previous)["logits"]
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)
    run(tmp_path / "hf", tmp_path / "back.pt", "fairseq")
    back = torch.load(tmp_path / "back.pt", weights_only=True)["model"]
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize(
    "form", ["args Namespace", "cfg dict", "cfg Namespace", "cfg DictConfig", "cfg DictConfig of Namespace"]
)
def test_arguments_of_every_generation_are_read_alike(form: str, tmp_path: Path):
    """What fairseq 0.10, 2021's main and 0.12 put beside the model (layouts/facts.md §0.2)."""
    checkpoint = torch.load(FINETUNED / "checkpoint_best.pt", weights_only=False)
    model = Namespace(encoder_attention_heads=4, decoder_attention_heads=4, dropout=0.25, no_scale_embedding=True)
    task = {"source_lang": "xx", "target_lang": "yy"}
    checkpoint["cfg"], checkpoint["args"] = None, None
    if form == "args Namespace":
        checkpoint["args"] = Namespace(**vars(model), **task)
    elif form.startswith("cfg DictConfig"):
        inner = model if "of Namespace" in form else vars(model)
        checkpoint["cfg"] = OmegaConf.create({"model": inner, "task": task}, flags={"allow_objects": True})
    else:
        checkpoint["cfg"] = {"model": vars(model) if form == "cfg dict" else model, "task": task}
    torch.save(checkpoint, tmp_path / "in.pt")
    report = run(tmp_path / "in.pt", tmp_path / "hf", "hf")
    found = {value.path: (value.value, value.origin) for value in report.config}
    assert found["encoder_attention_heads"] == (4, "source config")
    assert found["dropout"] == (0.25, "source config")
    assert found["source_lang"] == ("xx", "source config")


def test_what_is_written_as_pretrained_is_what_the_loader_accepts(hf_dir: Path, tmp_path: Path):
    run(hf_dir, tmp_path / "pretrained.pt", "pretrained")
    sizes = {
        "encoder_layers": 4, "decoder_layers": 2, "encoder_embed_dim": 64, "decoder_embed_dim": 64,
        "encoder_ffn_embed_dim": 128, "decoder_ffn_embed_dim": 128, "max_source_positions": 62,
        "max_target_positions": 62,
    }  # fmt: skip
    model = fairseq_side.build(
        vocab=163, share_all_embeddings=True, pretrained_deltalm_checkpoint=str(tmp_path / "pretrained.pt"), **sizes
    )
    original = torch.load(FINETUNED / "checkpoint_best.pt", weights_only=False)["model"]
    assert all(torch.equal(value, original[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "sample", ["deltalm_finetuned_share_all", "deltalm_finetuned_untied", "deltalm_finetuned_v0122"]
)
def test_samples_there_and_back_load_strictly_in_the_real_fairseq(sample: str, tmp_path: Path):
    (tmp_path / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(40)))
    run(GOLDEN / f"{sample}.pt", tmp_path / "hf", "hf", dictionaries=(tmp_path / "dict.txt",))
    run(tmp_path / "hf", tmp_path / "back", "fairseq", dictionaries=(tmp_path / "dict.txt",))
    (model,), _, _ = fairseq_side.load(tmp_path / "back")
    original = torch.load(GOLDEN / f"{sample}.pt", weights_only=False)["model"]
    assert all(torch.equal(value, original[key]) for key, value in model.state_dict().items())
