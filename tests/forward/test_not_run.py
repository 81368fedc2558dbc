"""What can't be run is told in one sentence; and nothing that a file says is executed, whatever it says."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptconv.errors import Unsafe
from ckptconv.forward import Forward, Subject, batches, run_both, tensors
from ckptconv.forward.tensors import available_memory
from tests.forward.conftest import DELTALM, XLMR
from tests.forward.side import GOLDEN, ROOT, both, convert, subject


def assert_not_run(found: Forward, *expected: str) -> None:
    """Nothing was compared, and one sentence says why."""
    assert (found.passed, found.layers, found.top1, found.greedy) == (None, (), None, None)
    assert len(found.not_run) == len(expected)
    for sentence, part in zip(found.not_run, expected, strict=True):
        assert re.search(part, sentence), sentence
        assert "\n" not in sentence
        assert len(sentence) < 600


def test_without_fairseq(xlmr_hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fairseq", None)
    missing = r"half could not run: fairseq is not installed; pip install 'ckptconv\[fairseq\]'"
    found = both(XLMR, xlmr_hf)
    assert_not_run(found, f"^the source {missing}$")
    assert (found.source_engine, found.target_engine) == ("", "")
    assert_not_run(both(xlmr_hf, XLMR), f"^the target {missing}$")
    assert_not_run(both(XLMR, XLMR), f"^the source {missing}", f"^the target {missing}")
    assert both(xlmr_hf, xlmr_hf).passed


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_without_the_other_half(name: str, xlmr_hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert_not_run(both(xlmr_hf, xlmr_hf), *[rf"{name} is not installed; pip install 'ckptconv\[hf\]'"] * 2)


def test_without_a_layout_or_an_engine(xlmr_hf: Path) -> None:
    known = subject(xlmr_hf)
    assert_not_run(run_both(known, Subject(known.checkpoint, None, {})), "target half .* layout is not known")


def test_what_does_not_fit(xlmr_hf: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(xlmr_hf, tmp_path / "hf")
    state = load_file(xlmr_hf / "model.safetensors")
    del state["roberta.encoder.layer.1.output.dense.bias"]
    save_file(state, tmp_path / "hf" / "model.safetensors")
    assert_not_run(both(xlmr_hf, tmp_path / "hf"), "target half .* not all of it fits xlmr/hf")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_hidden_layers": 10**9}, "its config doesn't go with its tensors: .*num_hidden_layers"),
        ({"max_position_embeddings": 10**12}, "its config doesn't go with its tensors"),
        ({"num_attention_heads": 5}, "transformers raised ValueError"),
        ({"hidden_act": "\x1b[2Jno\nsuch"}, r"transformers raised KeyError.*x1b"),
    ],
    ids=str,
)
def test_an_impossible_config(fields: dict[str, Any], expected: str, xlmr_hf: Path, tmp_path: Path) -> None:
    shutil.copytree(xlmr_hf, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, **fields}))
    found = both(xlmr_hf, tmp_path / "hf")
    assert_not_run(found, f"^the target half could not run: .*{expected}")
    assert found.source_engine.endswith("XLMRobertaForMaskedLM") == bool(found.sentences)
    assert found.target_engine == ""


def test_keys_that_transformers_would_make_up(xlmr_hf: Path, tmp_path: Path) -> None:
    """A config that unties a projection which the file doesn't hold."""
    (tmp_path / "hf").mkdir()
    shutil.copy(GOLDEN / "hf_xlmr_mlm_transformers-5.23.safetensors", tmp_path / "hf" / "model.safetensors")
    config = {**json.loads((xlmr_hf / "config.json").read_text()), "tie_word_embeddings": False}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    assert_not_run(both(xlmr_hf, tmp_path / "hf"), "target half .* would make up . keys that are missing: lm_head.dec")


def test_two_families(xlmr_hf: Path) -> None:
    found = run_both(subject(xlmr_hf), subject(GOLDEN / "hf_deltalm_fengshen_transformers-4.30.2.bin"))
    assert found.passed is False
    assert "which are different models" in found.not_run[0]


def test_too_large_for_memory(xlmr_hf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert 1 << 20 < (available_memory() or 0) < 1 << 50
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   3 kB\n")
    monkeypatch.setattr(tensors, "_MEMINFO", tmp_path / "meminfo")
    assert available_memory() == 3072
    assert_not_run(both(xlmr_hf, xlmr_hf), "source half could not run: it needs about .* GB of memory")
    monkeypatch.setattr(tensors, "_MEMINFO", tmp_path / "none")
    assert 1 << 20 < (available_memory() or 0) < 1 << 50


def test_a_vocabulary_of_special_tokens(xlmr_hf: Path, tmp_path: Path) -> None:
    pytest.importorskip("fairseq")
    convert(xlmr_hf, tmp_path / "out.pt", "xlmr/fairseq-0.10", vocab=5)
    assert_not_run(both(xlmr_hf, tmp_path / "out.pt"), "neither half was run: the vocabulary")


class Evil:
    """A pickle that makes a directory when it is opened by anything that executes pickles."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    pytest.importorskip("fairseq")
    marker, evil = tmp_path / "executed", tmp_path / "evil.pt"
    torch.save({"weights": Evil(marker)}, evil)
    content = torch.load(DELTALM, weights_only=False)
    args = content["cfg"]["model"]
    args.pretrained_deltalm_checkpoint = args.encoder_embed_path = args.decoder_embed_path = str(evil)
    args.encoder_xformers_att_config = args.decoder_xformers_att_config = f"__import__('os').mkdir({str(marker)!r})"
    torch.save(content, tmp_path / "in.pt")
    found = both(tmp_path / "in.pt", DELTALM)
    assert found.passed, found
    assert not marker.exists()
    with pytest.raises(Unsafe):
        subject(evil)
    assert not marker.exists()
    torch.load(evil, weights_only=False)  # what the guard is against
    assert marker.exists()


def test_no_argument_is_evaluated(tmp_path: Path) -> None:
    """fairseq evaluates this one as Python (fairseq/utils.py: eval_str_dict)."""
    pytest.importorskip("fairseq")
    from tests import xlmr_side

    marker = tmp_path / "executed"
    model = xlmr_side.build()
    args = argparse.Namespace(**vars(model.args))
    args.encoder_xformers_att_config = f"__import__('os').mkdir({str(marker)!r})"
    torch.save({"cfg": {"model": args}, "model": model.state_dict()}, tmp_path / "in.pt")
    found = both(tmp_path / "in.pt", tmp_path / "in.pt")
    assert found.passed, found
    assert not marker.exists()
    with pytest.raises(FileExistsError):  # it is evaluated once for each layer
        xlmr_side.from_state(model.state_dict(), args)
    assert marker.exists()


def test_no_code_of_a_directory_is_imported(deltalm_hf: Path, tmp_path: Path) -> None:
    shutil.copytree(deltalm_hf, tmp_path / "hf")
    marker = tmp_path / "executed"
    for file in (tmp_path / "hf").glob("*.py"):
        file.write_text(f"import os; os.mkdir({str(marker)!r})")
    file = tmp_path / "hf" / "config.json"
    asked = {
        "attn_implementation": "nobody/no-such-kernel",
        "_attn_implementation": "nobody/no-such-kernel",
        "quantization_config": {"quant_method": "gptq", "bits": 4},
        "architectures": ["PreTrainedModel"],
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), **asked}))
    found = both(deltalm_hf, tmp_path / "hf")
    assert found.passed, found
    assert not marker.exists()


def test_nothing_is_left_behind(deltalm_hf: Path) -> None:
    """Nothing on the terminal, and sys.path as it was, in a process that begins with it."""
    pytest.importorskip("fairseq")
    program = (
        "import sys; from pathlib import Path; from tests.forward.side import both; before = list(sys.path)\n"
        f"assert both(Path({str(DELTALM)!r}), Path({str(deltalm_hf)!r})).passed\n"
        "assert sys.path == before, sys.path"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("longest", "target"), [(2, 2), (3, 9), (40, 20), (500, 500)])
@pytest.mark.parametrize("framed", [True, False])
def test_batches(longest: int, target: int, framed: bool) -> None:
    made = batches.batches(range(4, 30), None if framed else range(4, 9), longest, target, framed)
    assert made == batches.batches(range(4, 30), None if framed else range(4, 9), longest, target, framed)
    rows = [row for batch in made for row in batch.rows]
    assert {1, 2} <= {len(row) for row in rows}
    assert max(len(row) for row in rows) == min(longest, 40)
    assert {batch.left for batch in made} == {True, False}
    assert all(len(batch.targets) == (0 if framed else len(batch.rows)) for batch in made)
    for row in rows:
        inside = row[1:-1] if framed else row[:-1]
        assert all(4 <= number < 30 for number in inside)
        assert row[-1] == 2 or len(row) == 1
        assert not framed or row[0] == 0
    for given in (given for batch in made for given in batch.targets):
        assert given[0] == 2
        assert len(given) <= target
        assert all(4 <= number < 9 for number in given[1:])
