"""The converted directory in transformers, as a user has it: same numbers, same translations as the original."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

import ckptconv.hf
from tests.commands.conftest import GOLDEN, NUMBERS, ROOT, run

PAD, EOS = 1, 2


@pytest.fixture(scope="module")
def model(hf_dir: Path):
    assert ckptconv.hf.DeltaLMConfig.model_type == "deltalm"
    loaded, info = AutoModelForSeq2SeqLM.from_pretrained(hf_dir, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return loaded.eval()


@pytest.fixture(scope="module")
def tokenizer(hf_dir: Path):
    return AutoTokenizer.from_pretrained(hf_dir)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_states_and_logits_equal_the_recorded_ones(model, side: str):
    golden = load_file(NUMBERS / "forward.safetensors")
    source = golden["src_tokens"]
    pads = (source == PAD).sum(1)
    assert pads.any()

    def turned(batch: torch.Tensor) -> torch.Tensor:
        rows = [row if side == "left" else row.roll(-int(count), 0) for row, count in zip(batch, pads, strict=True)]
        return torch.stack(rows)

    source = turned(source)
    out = model(
        input_ids=source,
        attention_mask=(source != PAD).long(),
        decoder_input_ids=golden["prev_output_tokens"],
        output_hidden_states=True,
    )
    real, target = source != PAD, golden["prev_output_tokens"] != PAD
    for number, state in enumerate(out.encoder_hidden_states):
        torch.testing.assert_close(state[real], turned(golden[f"encoder_states.{number}"])[real], atol=1e-5, rtol=0)
    for number, state in enumerate(out.decoder_hidden_states):
        torch.testing.assert_close(state[target], golden[f"decoder_states.{number}"][target], atol=1e-5, rtol=0)
    torch.testing.assert_close(out.logits[target], golden["logits"][target], atol=1e-5, rtol=0)


def sources() -> list[str]:
    return (NUMBERS / "test.de").read_text(encoding="utf-8").splitlines()


def test_greedy_translations_equal_fairseqs_on_all_sentences(model, tokenizer, generated):
    batch = tokenizer(sources(), padding=True, return_tensors="pt")
    found = tokenizer.batch_decode(model.generate(**batch, num_beams=1), skip_special_tokens=True)
    assert found == [row["hypothesis"] for row in generated(1)]
    assert len(found) == 100


@torch.no_grad()
def scores(model, batch, target: torch.Tensor) -> torch.Tensor:
    """Mean log2 probability of each target row with its `</s>`, as fairseq-generate prints it."""
    start = torch.full_like(target[:, :1], EOS)
    logits = model(**batch, decoder_input_ids=torch.cat([start, target[:, :-1]], 1)).logits
    chosen = logits.log_softmax(-1).gather(2, target[:, :, None]).squeeze(2) / math.log(2)
    counted = target != PAD
    return (chosen * counted).sum(1) / counted.sum(1)


def test_with_the_written_generation_config_beams_score_at_least_fairseqs(model, tokenizer, generated):
    rows = generated(5)
    assert model.generation_config.num_beams == 5
    batch = tokenizer(sources(), padding=True, return_tensors="pt")
    recorded = torch.tensor([float(row["score_log2"]) for row in rows])
    hypotheses = tokenizer(text_target=[row["hypothesis"] for row in rows], padding=True, return_tensors="pt")
    torch.testing.assert_close(scores(model, batch, hypotheses["input_ids"]), recorded, atol=1e-4, rtol=0)
    ours = scores(model, batch, model.generate(**batch)[:, 1:])
    assert (ours >= recorded - 1e-4).all(), [sources()[i] for i in (ours < recorded - 1e-4).nonzero().flatten()]


def test_generation_is_configured_as_fairseq_searches(hf_dir: Path):
    written = GenerationConfig.from_pretrained(hf_dir)
    assert (written.decoder_start_token_id, written.forced_eos_token_id) == (EOS, EOS)
    # 62 positions: </s>, and 61 tokens that are looked at; the 62nd is only produced.
    assert written.max_length == 63
    assert written.suppress_tokens == [PAD]


def test_from_the_directory_alone_with_trust_remote_code(hf_dir: Path, tmp_path: Path):
    """In a new process that can't import ckptconv."""
    program = (
        "import sys; sys.path = [p for p in sys.path if p not in ('', sys.argv[2])]\n"
        "import importlib.util; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
        "sys.path = [p for p in sys.path if not __import__('os').path.isdir(p + '/ckptconv')]\n"
        "assert importlib.util.find_spec('ckptconv') is None\n"
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n"
        "model = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "batch = tokenizer(['siebenhundertdrei', 'acht'], padding=True, return_tensors='pt')\n"
        "print(tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True))\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(hf_dir), str(ROOT)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "['seven hundred and three', 'eight']"


@pytest.mark.parametrize("trust", [True, False])
def test_the_tokenizer_needs_no_code_and_asks_nothing_when_told(hf_dir: Path, tmp_path: Path, trust: bool):
    """In a process where ckptconv.hf isn't imported, so that transformers doesn't know the model."""
    program = (
        "from transformers import AutoTokenizer\n"
        f"t = AutoTokenizer.from_pretrained(r'{hf_dir}', trust_remote_code={trust})\n"
        "print(type(t).__module__.split('.')[0], t('acht')['input_ids'][-1])"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "transformers 2"


@pytest.mark.parametrize("sample", ["share_all", "untied", "v0122"])
@pytest.mark.parametrize("padding", ["nopad", "rpad", "lpad"])
@torch.no_grad()
def test_logits_of_the_samples(sample: str, padding: str, tmp_path: Path):
    reference = torch.load(GOLDEN / f"ref_logits_dlm_{sample}.pt", weights_only=False)
    torch.save({"model": reference["sd"]}, tmp_path / "in.pt")
    report = run(
        tmp_path / "in.pt", tmp_path / "hf", "hf", set={"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    )
    assert {value.path for value in report.config if value.origin == "--set"} == {
        "encoder_attention_heads",
        "decoder_attention_heads",
    }
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf").eval()
    second = {"nopad": [7, 8, 20, 21, 2], "rpad": [7, 8, 2, 1, 1], "lpad": [1, 1, 7, 8, 2]}[padding]
    source = torch.tensor([[5, 9, 11, 30, 2], second])
    previous = torch.tensor([[2, 6, 7, 8], [2, 10, 11, 12]])
    out = model(input_ids=source, attention_mask=(source != PAD).long(), decoder_input_ids=previous)
    torch.testing.assert_close(out.logits, reference["r"][padding], atol=1e-5, rtol=0)


def test_the_public_ports_directory_loads_and_converts_both_ways(tmp_path: Path):
    """Its config has a start token of 0 and no field for ties; ours says 2 and both."""
    port = tmp_path / "port"
    port.mkdir()
    name = "hf_deltalm_fengshen"
    (port / "pytorch_model.bin").write_bytes((GOLDEN / f"{name}_transformers-4.30.2.bin").read_bytes())
    (port / "config.json").write_bytes((GOLDEN / f"{name}.config.json").read_bytes())
    run(port, tmp_path / "fairseq", "fairseq")
    report = run(tmp_path / "fairseq", tmp_path / "ours", "hf")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["decoder_start_token_id"] == 2
    assert (config["dropout"], config["encoder_attention_heads"]) == (0.1, 4)
    assert AutoConfig.from_pretrained(tmp_path / "ours").max_position_embeddings == 32
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours")
    theirs = torch.load(port / "pytorch_model.bin", weights_only=True)
    assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items())
    assert not report.plan.resized


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_loads_in_its_dtype_and_translates(dtype: str, tmp_path: Path):
    run(NUMBERS / "finetuned", tmp_path / "hf", "hf", dtype=dtype)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf", dtype="auto")
    assert model.dtype == {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    batch = tokenizer(["zweiundvierzig"], return_tensors="pt")
    assert tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True) == ["forty-two"]
