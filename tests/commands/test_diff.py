"""diff of any checkpoints: wrappers, ties, renames, rounding, what moved; files by torch, safetensors, transformers."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file, save_model
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    XLMRobertaForMaskedLM,
    XLMRobertaForTokenClassification,
)

import ckptconv
from ckptconv import diff
from ckptconv.commands.difference import layer_of
from ckptconv.errors import CkptconvError, NotACheckpoint, Unsafe, WrongUse
from tests.commands.conftest import FINETUNED, GOLDEN, run
from tests.commands.diff_side import NOTHING, differences, saved
from tests.xlmr.hf_side import build, shake

HF = GOLDEN / "hf_xlmr_mlm_transformers-5.23.safetensors"


# ------------------------------------------------------------------------------------------------- any checkpoint
def test_a_wrapper_around_a_model_without_a_table(tmp_path: Path):
    model = BertForMaskedLM(BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                       intermediate_size=32, max_position_embeddings=20))  # fmt: skip
    model.save_pretrained(tmp_path / "bert")
    wrapped = torch.nn.Sequential()
    wrapped.add_module("module", model)
    torch.save({"state_dict": wrapped.state_dict(), "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "ddp.pt")
    report = diff(tmp_path / "ddp.pt", tmp_path / "bert", values=True)
    assert differences(report) == NOTHING
    assert "all keys of A begin with `module.`: compared without it" in report.notes
    assert "A: not compared, since they are no part of the state dict: epoch, optimizer" in report.notes
    assert (report.a.layout, report.a.entry, report.b.container) == (None, "state_dict", "safetensors")
    # Only in the wrapped file: the decoder that is tied to the embedding.
    assert {tied.key for tied in report.tied if tied.absent} == {
        "module.cls.predictions.decoder.weight",
        "module.cls.predictions.decoder.bias",
    }


def test_most_keys_under_a_prefix(tmp_path: Path):
    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    whole = BertForMaskedLM(config)
    whole.save_pretrained(tmp_path / "mlm")
    bare = BertModel(config, add_pooling_layer=False)
    bare.load_state_dict(whole.bert.state_dict())
    bare.save_pretrained(tmp_path / "bare")
    report = diff(tmp_path / "bare", tmp_path / "mlm", values=True)
    assert {key.split(".")[0] for key in differences(report)["added"]} == {"cls"}
    assert {**differences(report), "added": []} == NOTHING
    assert re.search(r"\d+ of \d+ keys of B begin with `bert.`: compared without it", " ".join(report.notes))


def test_prefixes_on_both_sides_and_none_that_would_make_two_keys_one(tmp_path: Path):
    keys = ["a.w", "b.w", "c.w"]
    a = saved(tmp_path / "a.pt", {f"lf.{key}": torch.ones(2) for key in keys})
    b = saved(tmp_path / "b.pt", {f"model.net.{key}": torch.ones(2) for key in keys})
    report = diff(a, b, values=True)
    assert differences(report) == NOTHING
    assert [pair.key for pair in report.pairs] == [f"model.net.{key}" for key in keys]
    clash = saved(tmp_path / "c.pt", {"m.a.w": torch.ones(2), "m.b.w": torch.ones(2), "a.w": torch.zeros(2)})
    report = diff(clash, saved(tmp_path / "d.pt", {key: torch.ones(2) for key in keys}), values=True)
    assert sorted(differences(report)["removed"]) == ["m.a.w", "m.b.w"]


def test_renamed_tensors_are_recognised_by_their_bytes(tmp_path: Path):
    a = {f"layers.{i}.fc.weight": torch.randn(4, 4) for i in range(12)}
    a |= {f"layers.{i}.norm.weight": torch.ones(4) for i in range(12)}
    a |= {f"x.{i}.weight": torch.randn(4, 4) for i in range(30)}  # most keys, so that `layers.` is no prefix of most
    b = {key.replace("layers.", "h.").replace("fc", "mlp"): value.clone() for key, value in reversed(a.items())}
    b["h.3.mlp.weight"] += 1
    report = diff(saved(tmp_path / "a.pt", a), saved(tmp_path / "b.safetensors", b), values=True)
    found = {each.before: each.after for each in report.renamed}
    expected = {key: key.replace("layers.", "h.").replace("fc", "mlp") for key in a if key.startswith("layers.")}
    del expected["layers.3.fc.weight"]
    assert found == expected
    assert set(differences(report)["removed"]) == {key for key in a if key.startswith("layers.")}
    assert diff(tmp_path / "a.pt", tmp_path / "b.safetensors").renamed == ()


def test_equal_bytes_of_another_shape_or_dtype_are_no_rename(tmp_path: Path):
    a = saved(tmp_path / "a.pt", {"a": torch.zeros(2, 3), "b": torch.zeros(4), "e": torch.empty(0), "k": torch.ones(1)})
    b = {"c": torch.zeros(3, 2), "d": torch.zeros(4, dtype=torch.int32), "f": torch.empty(0), "k": torch.ones(1)}
    assert diff(a, saved(tmp_path / "b.pt", b), values=True).renamed == ()


def test_ties_are_told_and_are_no_difference(tmp_path: Path):
    weight = torch.randn(6, 4)
    shared = saved(tmp_path / "shared.pt", {"emb.weight": weight, "head.weight": weight, "x": torch.ones(1)})
    apart = saved(tmp_path / "apart.safetensors", {"emb.weight": weight, "head.weight": weight, "x": torch.ones(1)})
    once = saved(tmp_path / "once.safetensors", {"emb.weight": weight, "x": torch.ones(1)})
    for a, b, side in ((shared, apart, "A"), (apart, shared, "B")):
        report = diff(a, b, values=True)
        assert differences(report) == NOTHING
        assert [(t.key, t.to, t.side, t.absent) for t in report.tied] == [("head.weight", "emb.weight", side, False)]
    for a, b, side in ((shared, once, "B"), (once, shared, "A")):
        report = diff(a, b, values=True)
        assert differences(report) == NOTHING
        assert [(t.key, t.to, t.side, t.absent) for t in report.tied] == [("head.weight", "emb.weight", side, True)]
    assert diff(shared, shared, values=True).tied == ()
    # Stored apart, they are two: one that is missing is a difference.
    assert differences(diff(apart, once)) == {**NOTHING, "removed": ["head.weight"]}
    moved = saved(tmp_path / "moved.pt", {"emb.weight": weight, "head.weight": weight + 1, "x": torch.ones(1)})
    assert differences(diff(shared, moved, values=True))["values"] == ["head.weight"]


def test_a_tied_head_that_is_absent_stands_for_the_embedding(tmp_path: Path):
    """transformers doesn't write a tied lm_head; an untied one differs from the embedding that would stand for it."""
    model = build(XLMRobertaForMaskedLM)
    model.save_pretrained(tmp_path / "tied")
    state = {key: value for key, value in model.state_dict().items() if "position_ids" not in key}
    torch.save(state, tmp_path / "all.bin")
    report = diff(tmp_path / "all.bin", tmp_path / "tied", values=True)
    assert differences(report) == NOTHING
    assert {tied.key for tied in report.tied} == {"lm_head.decoder.weight", "lm_head.decoder.bias"}
    state["lm_head.decoder.weight"] = torch.randn(45, 32)
    torch.save(state, tmp_path / "all.bin")
    assert differences(diff(tmp_path / "all.bin", tmp_path / "tied", values=True))["values"] == [
        "lm_head.decoder.weight"
    ]


def test_shared_tensors_that_safetensors_left_out(tmp_path: Path):
    """safetensors.torch.save_model keeps one name of a shared tensor; torch.save keeps both."""
    model = torch.nn.Module()
    model.emb, model.head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False)
    model.head.weight = model.emb.weight
    save_model(model, str(tmp_path / "m.safetensors"))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    assert differences(diff(tmp_path / "m.pt", tmp_path / "m.safetensors", values=True)) == NOTHING


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_cast_is_a_difference_of_dtype_and_said_to_be_one_of_rounding(dtype: str, tmp_path: Path):
    run(FINETUNED, tmp_path / "hf.safetensors", "hf", dtype=dtype)
    report = diff(FINETUNED, tmp_path / "hf.safetensors", values=True)
    assert len(report.dtype_changed) == len(report.pairs) > 130
    name = {"fp16": "F16", "bf16": "BF16"}[dtype]
    rounded = [pair for pair in report.pairs if pair.rounded]
    assert {pair.comparison.rounded_to for pair in rounded} == {name}
    # ones and zeros are the same in any of them
    assert all(pair.comparison.changed == 0 for pair in report.pairs if pair not in rounded)
    assert {pair.comparison.compared_as for pair in report.pairs} == {"F32"}
    assert sum(layer.moved for layer in report.layers) == 0
    assert report.different
    wide = run(tmp_path / "hf.safetensors", tmp_path / "wide.safetensors", "same", dtype="fp32")
    assert wide
    again = diff(tmp_path / "hf.safetensors", tmp_path / "wide.safetensors", values=True)
    assert {pair.status for pair in again.pairs} == {"equal"}


def test_tolerance(tmp_path: Path):
    state = {"w": torch.randn(50), "n": torch.arange(5)}
    moved = {"w": state["w"] + 1e-4, "n": state["n"]}
    a, b = saved(tmp_path / "a.pt", state), saved(tmp_path / "b.pt", moved)
    assert (diff(a, b, values=True).count("differ"), diff(a, b, values=True).tolerance) == (1, None)
    near = diff(a, b, values=True, atol=1e-3)
    assert (near.count("close"), near.count("equal"), near.different) == (1, 1, False)
    assert diff(a, b, values=True, atol=1e-6, rtol=0).different
    moved["n"] = state["n"] + 1
    assert diff(a, saved(tmp_path / "c.pt", moved), values=True, atol=10).count("differ") == 1
    zero = saved(tmp_path / "z.pt", {"w": torch.zeros(2)}), saved(tmp_path / "y.pt", {"w": -torch.zeros(2)})
    assert diff(*zero, values=True).different
    assert not diff(*zero, values=True, atol=0).different


def test_ignored_keys(tmp_path: Path):
    a = saved(tmp_path / "a.pt", {"a.w": torch.ones(2), "old": torch.ones(1), "m.x": torch.ones(3)})
    b = saved(tmp_path / "b.pt", {"a.w": torch.zeros(2), "new": torch.ones(1), "m.x": torch.ones(3)})
    report = diff(a, b, values=True, ignore=("a.*", "old", "nothing[0-9]"))
    assert differences(report) == {**NOTHING, "added": ["new"]}
    assert report.ignored == 2
    assert "--ignore nothing[0-9]: there is no such key" in report.notes
    assert not diff(a, b, values=True, ignore=["*"]).different
    # By the key that either file has: fairseq's and Hugging Face's.
    run(FINETUNED, tmp_path / "hf.safetensors", "hf")
    pattern = "model.decoder.layers.1.*"
    assert diff(FINETUNED, tmp_path / "hf.safetensors", ignore=[pattern]).ignored == 32
    assert diff(FINETUNED, tmp_path / "hf.safetensors", ignore=["decoder.layers.1.*", "*.version"]).ignored == 34


# ------------------------------------------------------------------------------------------------------ what moved
def test_two_epochs_of_one_run_one_of_them_in_hf_form(tmp_path: Path):
    """Real steps of training in fairseq, with the first layer frozen: the rest moved, and as much as torch says."""
    fairseq_side = pytest.importorskip("tests.fairseq_side")
    (model,), _, _ = fairseq_side.load(FINETUNED)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    weights = [value for name, value in model.named_parameters() if not name.startswith("encoder.layers.0.")]
    optimizer = torch.optim.Adam(weights, lr=1e-3)
    ids = torch.randint(4, 160, (4, 7), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        optimizer.zero_grad()
        logits = model(ids, torch.full((4,), 7), ids)[0]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
        optimizer.step()
    torch.save({"model": model.state_dict()}, tmp_path / "epoch2.pt")
    run(tmp_path / "epoch2.pt", tmp_path / "epoch2.safetensors", "hf")
    report = diff(FINETUNED, tmp_path / "epoch2.safetensors", values=True)
    layers = {layer.name.removeprefix("model."): layer for layer in report.layers}
    after = model.state_dict()
    for number in range(4):
        keys = [key for key in before if key.startswith(f"encoder.layers.{number}.")]
        norm = math.sqrt(sum(float(before[key].double().square().sum()) for key in keys))
        moved = math.sqrt(sum(float((after[key] - before[key]).double().square().sum()) for key in keys))
        layer = layers[f"encoder.layers.{number}"]
        assert layer.relative == pytest.approx(moved / norm, rel=1e-5)
        assert (layer.moved, layer.tensors) == (0 if number == 0 else 16, 16)
    assert [layer.rank for layer in report.layers] == sorted((layer.rank for layer in report.layers), reverse=True)
    assert report.layers[-1].name == "model.encoder.layers.0"
    assert (report.added, report.removed, report.dtype_changed, report.tied) == ((), (), (), ())
    same = diff(tmp_path / "epoch2.pt", tmp_path / "epoch2.safetensors", values=True)
    assert not same.different


def test_fine_tuning_in_transformers(tmp_path: Path):
    model = build(XLMRobertaForTokenClassification, num_labels=7)
    model.save_pretrained(tmp_path / "before")
    with torch.no_grad():
        shake(model.roberta.encoder.layer[1])
        model.classifier.weight[3, 5] = float("nan")
    model.save_pretrained(tmp_path / "after")
    report = diff(tmp_path / "before", tmp_path / "after", values=True)
    first, second, *rest = report.layers
    assert (first.name, first.nan_mismatches, first.moved) == ("classifier", 1, 1)
    assert (second.name, second.moved, second.tensors) == ("roberta.encoder.layer.1", 16, 16)
    assert all(layer.moved == 0 for layer in rest)


@pytest.mark.parametrize(
    ("key", "layer"),
    [
        ("encoder.layers.3.fc1.weight", "encoder.layers.3"),
        ("h.2.experts.7.w", "h.2"),
        ("encoder.embed_tokens.weight", "encoder.embed_tokens"),
        ("0.weight", "0"),
        ("alone", "alone"),
        ("model.layer.007.w", "model.layer.007"),
    ],
)
def test_layers(key: str, layer: str):
    assert layer_of(key) == layer


# -------------------------------------------------------------------------------------------- any two state dicts
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    keys = draw(st.lists(st.sampled_from(["a", "b.w", "b.x.0.w", "b.x.1.w", "c.bias", "d"]), unique=True, min_size=1))
    state = {}
    for key in keys:
        shape = draw(st.sampled_from([(), (0,), (3,), (2, 3), (3, 2)]))
        values = torch.tensor(draw(st.lists(st.integers(-2, 2), min_size=6, max_size=6)))[: math.prod(shape)]
        state[key] = values.to(draw(st.sampled_from(DTYPES))).reshape(shape)
    return state


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(state_dicts(), state_dicts())
def test_any_two_state_dicts(tmp_path: Path, a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]):
    nested = tmp_path / "a.pt"
    torch.save({"model": {f"top.{key}": tensor for key, tensor in a.items()}}, nested)
    flat = saved(tmp_path / "b.safetensors", {f"top.{key}": tensor for key, tensor in b.items()})
    report = diff(nested, flat, values=True)
    both = a.keys() & b.keys()
    found = differences(report)
    assert set(found["added"]) == {f"top.{key}" for key in b.keys() - both}
    assert set(found["removed"]) == {f"top.{key}" for key in a.keys() - both}
    assert set(found["shapes"]) == {f"top.{key}" for key in both if a[key].shape != b[key].shape}
    assert set(found["dtypes"]) == {f"top.{key}" for key in both if a[key].dtype != b[key].dtype}
    alike = [key for key in both if a[key].shape == b[key].shape]
    assert set(found["values"]) == {f"top.{key}" for key in alike if not torch.equal(a[key].double(), b[key].double())}
    renamed = {each.before: each.after for each in report.renamed}
    for before, after in renamed.items():
        x, y = a[before.removeprefix("top.")], b[after.removeprefix("top.")]
        assert (x.dtype, x.shape, before in found["removed"], after in found["added"]) == (y.dtype, y.shape, True, True)
        assert torch.equal(x, y)
    assert report.different == any(found.values())


# ------------------------------------------------------------------------------------------------- size and bad input
def test_memory_stays_bounded(tmp_path: Path):
    """Two files of 160 MB each, of which every value differs."""
    big = torch.zeros(10_000_000)
    for name in ("a", "b"):
        save_file({f"{key}.w": big + 1.5 * (name == "b") for key in range(4)}, tmp_path / f"{name}.safetensors")
    program = (
        "import re, sys, ckptconv\n"
        "report = ckptconv.diff(sys.argv[1], sys.argv[2], values=True)\n"
        "assert report.count('differ') == 4\n"
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    files = [str(tmp_path / f"{name}.safetensors") for name in ("a", "b")]
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # kB, the interpreter and numpy included


def test_progress_counts_every_byte_that_is_read(tmp_path: Path, hf_dir: Path):
    seen: list[tuple[int, int]] = []
    report = diff(FINETUNED, hf_dir, values=True, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not report.different
    diff(FINETUNED, hf_dir, progress=lambda done, total: pytest.fail("nothing is read"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"atol": 1e-3}, "expected --values"),
        ({"rtol": 1e-3}, "expected --values"),
        ({"values": True, "atol": -1.0}, "not negative"),
        ({"values": True, "rtol": float("nan")}, "not negative"),
    ],
)
def test_wrong_use(options: dict[str, Any], message: str):
    with pytest.raises(WrongUse, match=message):
        diff(FINETUNED, FINETUNED, **options)


def test_bad_input(tmp_path: Path):
    with pytest.raises(NotACheckpoint, match="nope"):
        diff(FINETUNED, tmp_path / "nope.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(NotACheckpoint, match="holds no state dict"):
        diff(tmp_path / "empty.pt", FINETUNED)
    torch.save({"w": torch.zeros(1).expand(1 << 40)}, tmp_path / "bomb.pt")
    assert not diff(tmp_path / "bomb.pt", tmp_path / "bomb.pt").different
    with pytest.raises(Unsafe, match="stand for"):
        diff(tmp_path / "bomb.pt", tmp_path / "bomb.pt", values=True)
    torch.save({"v": torch.zeros(1).expand(1 << 40)}, tmp_path / "renamed.pt")
    with pytest.raises(Unsafe, match="stand for"):
        diff(tmp_path / "bomb.pt", tmp_path / "renamed.pt", values=True)


def test_a_damaged_tensor_is_found_when_values_are_read(tmp_path: Path):
    torch.save({"w": torch.arange(5000.0)}, tmp_path / "a.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    at = data.index(torch.arange(100.0, 110.0).numpy().tobytes())
    data[at] ^= 1
    (tmp_path / "b.pt").write_bytes(data)
    assert not diff(tmp_path / "a.pt", tmp_path / "b.pt").different
    with pytest.raises(CkptconvError, match="checksum"):
        diff(tmp_path / "a.pt", tmp_path / "b.pt", values=True)


def test_paths_may_be_text():
    assert not ckptconv.diff(str(HF), str(HF), table=str(GOLDEN.parents[1] / "mappings" / "xlmr.tbl")).different
