"""TorchScript archives of XLM-R become Hugging Face directories that compute what the traced model computes."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors import safe_open
from torch import Tensor

import ckptconv
from ckptconv.cli import main
from ckptconv.errors import DoesNotFit, NotACheckpoint, UnknownLayout, Unsupported, WrongUse
from tests.spm_side import XLMR, symbols, trained
from tests.xlmr.hf_side import GOLDEN, PAD, build, load, padded_batches, run

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore:.*")]
KINDS: dict[str, dict[str, Any]] = {
    "XLMRobertaModel": {},
    "XLMRobertaForMaskedLM": {},
    "XLMRobertaForSequenceClassification": {"num_labels": 3},
    "XLMRobertaForTokenClassification": {"num_labels": 7},
    "XLMRobertaForQuestionAnswering": {},
    "XLMRobertaForMultipleChoice": {},
    "XLMRobertaXLForMaskedLM": {},
    "XLMRobertaXLForTokenClassification": {"num_labels": 7},
    "XLMRobertaXLForQuestionAnswering": {},
}
HEADS = {"num_attention_heads": 4}  # no tensor shows how many there are
BUFFERS = ("roberta.embeddings.position_ids", "roberta.embeddings.token_type_ids")


class Wrapper(torch.nn.Module):
    """Holds a model under `model.`, as code for serving does."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor):
        return self.model(input_ids=ids, attention_mask=mask)


def inputs(kind: str) -> tuple[Tensor, Tensor]:
    """Sentences padded on the right, and their mask; for multiple choice, as one question's choices."""
    ids = padded_batches(45)[0]
    ids = ids[None] if "MultipleChoice" in kind else ids
    return ids, ids.ne(PAD).long()


def made(kind: str, **fields: Any) -> Any:
    return build(getattr(transformers, kind), return_dict=False, **KINDS[kind], **fields)


def traced(model: Any, kind: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids, mask = inputs(kind)
        named = {"input_ids": ids, "attention_mask": mask}
        if isinstance(model, Wrapper):
            return torch.jit.trace(model, (ids, mask), strict=False, check_trace=False)
        return torch.jit.trace(model, example_kwarg_inputs=named, strict=False, check_trace=False)


@torch.no_grad()
def first(model: Any, kind: str) -> Tensor:
    """What the model computes first: logits, or states. Of a question, both ends of the answer."""
    ids, mask = inputs(kind)
    found = model(ids, mask) if isinstance(model, Wrapper) else model(input_ids=ids, attention_mask=mask)
    found = tuple(found.values()) if hasattr(found, "values") else found
    return torch.stack(found[:2]) if "Question" in kind else found[0]


# ------------------------------------------------------------------------------------------------------- there and back
def plainly(model: Any, kind: str, path: Path) -> Tensor:
    traced(model, kind).save(path)
    return first(torch.jit.load(path), kind)


def wrapped(model: Any, kind: str, path: Path) -> Tensor:
    traced(Wrapper(model), kind).save(path)
    with torch.no_grad():
        found = torch.jit.load(path)(*inputs(kind))
    return torch.stack(found[:2]) if "Question" in kind else found[0]


def for_mobiles(model: Any, kind: str, path: Path) -> Tensor:
    script = traced(model, kind)
    script._save_for_lite_interpreter(str(path))
    return first(script, kind)


@pytest.mark.parametrize("save", [plainly, wrapped, for_mobiles])
@pytest.mark.parametrize("kind", KINDS)
def test_the_directory_computes_what_the_archive_computes(kind: str, save: Callable[..., Tensor], tmp_path: Path):
    expected = save(made(kind), kind, tmp_path / "x.pt")
    report = ckptconv.convert(tmp_path / "x.pt", tmp_path / "hf", ckptconv.Options(to="xlmr/hf", set=HEADS))
    dropped = {told.key.removeprefix("model.") for told in report.plan.dropped}
    bare = "" if kind == "XLMRobertaModel" else "roberta."
    assert dropped - {"constants.pkl"} == {f"{bare}embeddings.position_ids", f"{bare}embeddings.token_type_ids"}
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == [kind]
    model = load(tmp_path / "hf", getattr(transformers, kind))
    torch.testing.assert_close(first(model, kind), expected, atol=1e-6, rtol=0)
    assert ckptconv.verify(tmp_path / "x.pt", tmp_path / "hf").verdict == "proved"


def test_a_token_classifier_of_one_tag_is_no_multiple_choice(tmp_path: Path):
    """They have the same keys, but for the pooler."""
    kind = "XLMRobertaForTokenClassification"
    model = build(getattr(transformers, kind), return_dict=False, num_labels=1)
    traced(model, kind).save(tmp_path / "x.pt")
    run(tmp_path / "x.pt", tmp_path / "hf", "xlmr/hf", set=HEADS)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["architectures"] == [kind]


def test_a_scripted_module_around_a_traced_model(tmp_path: Path):
    kind = "XLMRobertaForTokenClassification"

    class Served(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model
            self.threshold = 0.5
            self.names = torch.jit.Attribute(["O", "B"], list[str])

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.model(ids, mask)[0]

    torch.jit.script(Served(traced(made(kind), kind))).save(tmp_path / "x.pt")
    report = ckptconv.convert(tmp_path / "x.pt", tmp_path / "hf", ckptconv.Options(to="xlmr/hf", set=HEADS))
    told = {each.key: each.reason for each in report.plan.dropped}
    assert told["names"] == told["threshold"] == "an attribute of the scripted code, no part of the state dict"
    assert "all keys begin with `model.`: read without it" in report.notes
    with torch.no_grad():
        expected = torch.jit.load(tmp_path / "x.pt")(*inputs(kind))
    model = load(tmp_path / "hf", transformers.XLMRobertaForTokenClassification)
    torch.testing.assert_close(first(model, kind), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_as_it_is(dtype: torch.dtype, tmp_path: Path):
    kind = "XLMRobertaForMaskedLM"
    plainly(made(kind).to(dtype), kind, tmp_path / "x.pt")
    run(tmp_path / "x.pt", tmp_path / "hf", "xlmr/hf", set=HEADS)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    model, info = transformers.XLMRobertaForMaskedLM.from_pretrained(
        tmp_path / "hf", output_loading_info=True, dtype="auto"
    )
    assert not any(info.values())
    found, truth = model.state_dict(), torch.jit.load(tmp_path / "x.pt").state_dict()
    assert {value.dtype for value in found.values()} == {dtype}
    assert all(torch.equal(value, truth[key]) for key, value in found.items())


@pytest.mark.parametrize("equal", [True, False])
def test_weights_that_tracing_cloned_are_tied_again_where_they_are_equal(equal: bool, tmp_path: Path):
    """As `torchscript=True` does in transformers 4 (PreTrainedModel._tie_or_clone_weights)."""
    kind = "XLMRobertaForMaskedLM"
    model = made(kind)
    clone = model.lm_head.decoder.weight.detach().clone()
    model.lm_head.decoder.weight = torch.nn.Parameter(clone if equal else clone * 1.5)
    expected = plainly(model, kind, tmp_path / "x.pt")
    report = ckptconv.convert(tmp_path / "x.pt", tmp_path / "hf", ckptconv.Options(to="xlmr/hf", set=HEADS))
    tied = {step.key for step in report.plan.steps if step.tied_to}
    assert ("lm_head.decoder.weight" in tied) is equal
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["tie_word_embeddings"] is equal
    with safe_open(tmp_path / "hf" / "model.safetensors", "pt") as file:
        assert ("lm_head.decoder.weight" in file.keys()) is not equal  # noqa: SIM118  # safe_open can't be iterated
    loaded = load(tmp_path / "hf", transformers.XLMRobertaForMaskedLM)
    torch.testing.assert_close(first(loaded, kind), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["XLMRobertaForMaskedLM", "XLMRobertaForSequenceClassification"])
def test_to_fairseq_as_well(kind: str, tmp_path: Path):
    plainly(made(kind), kind, tmp_path / "x.pt")
    run(tmp_path / "x.pt", tmp_path / "hf", "xlmr/hf", set=HEADS)
    for source in ("x.pt", "hf"):
        run(tmp_path / source, tmp_path / f"{source}-fairseq", "xlmr/fairseq", set=HEADS)
    models = [(tmp_path / f"{source}-fairseq" / "model.pt").read_bytes() for source in ("x.pt", "hf")]
    assert models[0] == models[1]


def holding(states: Mapping[str, Tensor]) -> torch.nn.Module:
    """Modules in modules whose state dict this is."""
    root = torch.nn.Module()
    for key, value in states.items():
        *path, name = key.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = getattr(place, part)
        place.register_buffer(name, value)
    return root


def test_an_archive_of_a_fairseq_model_becomes_a_checkpoint_of_fairseq(tmp_path: Path):
    """By its keys; in the same layout, from one of torch's containers to another."""
    states = torch.load(GOLDEN / "fairseq-0.12.2_roberta_mlm_BTzeros.pt", weights_only=False)["model"]
    torch.jit.script(holding(states)).save(tmp_path / "x.pt")
    run(tmp_path / "x.pt", tmp_path / "out", "xlmr/fairseq", set={"encoder_attention_heads": 4})
    found = torch.load(tmp_path / "out" / "model.pt", weights_only=True)["model"]
    assert found.keys() - states.keys() <= {"encoder.sentence_encoder.version"}
    assert all(torch.equal(value, states[key]) for key, value in found.items() if key in states)
    assert ckptconv.verify(tmp_path / "x.pt", tmp_path / "out").verdict == "proved"


# --------------------------------------------------------------------------------------------- what no tensor shows
@pytest.fixture
def tagger(tmp_path: Path) -> Path:
    """A folder with nothing but a traced token classifier."""
    kind = "XLMRobertaForTokenClassification"
    (tmp_path / "tagger").mkdir()
    plainly(made(kind), kind, tmp_path / "tagger" / "traced_model.pt")
    return tmp_path / "tagger"


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())  # type: ignore[no-any-return]


def test_heads_that_are_assumed_are_told(tagger: Path, tmp_path: Path):
    report = ckptconv.convert(tagger, tmp_path / "hf", ckptconv.Options(to="hf"))
    assert config_of(tmp_path / "hf")["num_attention_heads"] == 1
    assert any(note.startswith("assumed, since no config says: num_attention_heads = 1") for note in report.notes)
    proof = ckptconv.verify(tagger, tmp_path / "hf")
    assert proof.verdict == "proved"
    assert any(
        note.startswith("SRC has no config that says it, so it can't be proved: DST has num_attention_heads = 1")
        for note in proof.notes
    )


def test_a_config_beside_the_archive_is_used_and_listed_in_the_receipt(tagger: Path, tmp_path: Path):
    names = {str(number): f"tag{number}" for number in range(7)}
    (tagger / "config.json").write_text(
        json.dumps({"num_attention_heads": 8, "hidden_act": "gelu", "id2label": names, "hidden_dropout_prob": 0.25})
    )
    report = ckptconv.convert(tagger, tmp_path / "hf", ckptconv.Options(to="hf"))
    config = config_of(tmp_path / "hf")
    assert (config["num_attention_heads"], config["hidden_dropout_prob"], config["id2label"]) == (8, 0.25, names)
    assert not any("assumed" in note for note in report.notes)
    receipt = json.loads((tmp_path / "hf" / "conversion.json").read_text())
    assert [each["name"] for each in receipt["companions"]] == ["config.json"]


def test_a_config_of_another_model_is_refused(tagger: Path, tmp_path: Path):
    (tagger / "config.json").write_text(json.dumps({"hidden_size": 64}))
    with pytest.raises(DoesNotFit, match="hidden_size = 64, but the tensors say d = 32"):
        run(tagger, tmp_path / "hf", "hf")


def test_labels_of_tokens_can_be_named(tagger: Path, tmp_path: Path):
    (tmp_path / "labels.txt").write_text("".join(f"tag{number}\n" for number in range(7)))
    run(tagger, tmp_path / "hf", "hf", labels=tmp_path / "labels.txt")
    assert config_of(tmp_path / "hf")["label2id"] == {f"tag{number}": number for number in range(7)}
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with pytest.raises(DoesNotFit, match=r"names 2 classes \(a, b\), but the head has 7"):
        run(tagger, tmp_path / "again", "hf", labels=tmp_path / "labels.txt")


def test_a_head_can_be_left_behind(tagger: Path, tmp_path: Path):
    run(tagger, tmp_path / "hf", "hf", head="none", set=HEADS)
    assert config_of(tmp_path / "hf")["architectures"] == ["XLMRobertaModel"]
    assert "id2label" not in config_of(tmp_path / "hf")
    model, info = transformers.XLMRobertaModel.from_pretrained(
        tmp_path / "hf", output_loading_info=True, add_pooling_layer=False
    )
    assert model.config.num_attention_heads == 4
    assert not any(info.values())


# ----------------------------------------------------------------------------------------------------------- companions
@pytest.fixture
def with_tokenizer(tmp_path: Path) -> Path:
    """A traced model beside a tokenizer."""
    folder = tmp_path / "served"
    folder.mkdir()
    spm = trained()
    rows = len(symbols(spm)) + 5
    kind = "XLMRobertaForMaskedLM"
    plainly(made(kind, vocab_size=rows), kind, tmp_path / "x.pt")
    (tmp_path / XLMR.spm).write_bytes(spm)
    (tmp_path / "dict.txt").write_text("".join(f"{symbol} 1\n" for symbol in symbols(spm)))
    run(tmp_path / "x.pt", tmp_path / "hf", "xlmr/hf", set=HEADS)
    assert (tmp_path / "hf" / "tokenizer.json").is_file()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "hf" / name, folder)
    (folder / "special_tokens_map.json").write_text('{"mask_token": "<mask>"}')
    shutil.move(tmp_path / "x.pt", folder / "model.torchscript")
    return folder


def test_the_tokenizer_beside_the_archive_stays_as_it_is(with_tokenizer: Path, tmp_path: Path):
    kept = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    (with_tokenizer / "notes.json").write_text("{}")
    report = ckptconv.convert(with_tokenizer, tmp_path / "out", ckptconv.Options(to="hf", set=HEADS))
    assert set(report.files) == {"model.safetensors", "config.json", "conversion.json"} | kept
    for name in kept:
        assert (tmp_path / "out" / name).read_bytes() == (with_tokenizer / name).read_bytes()
    receipt = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert {each["name"] for each in receipt["companions"]} == kept
    assert not any("tokenizer" in note for note in report.notes)


def test_no_link_takes_another_file_along(with_tokenizer: Path, tmp_path: Path):
    (tmp_path / "secret").write_text("secret")
    (with_tokenizer / "special_tokens_map.json").unlink()
    (with_tokenizer / "special_tokens_map.json").symlink_to(tmp_path / "secret")
    report = ckptconv.convert(with_tokenizer, tmp_path / "out", ckptconv.Options(to="hf", set=HEADS))
    assert "special_tokens_map.json" not in report.files


def test_a_tokenizer_of_another_model_is_not_taken_along(with_tokenizer: Path, tmp_path: Path):
    kind = "XLMRobertaForMaskedLM"
    plainly(made(kind), kind, with_tokenizer / "other.pt")
    report = ckptconv.convert(with_tokenizer / "other.pt", tmp_path / "out", ckptconv.Options(to="hf", set=HEADS))
    assert set(report.files) == {"model.safetensors", "config.json", "conversion.json"}
    assert any(note.startswith("not used: tokenizer.json has ") for note in report.notes)


@pytest.mark.parametrize("name", ["model.torchscript", "mobile.ptl", "traced_model.pt", "model.pt"])
def test_folders_that_hold_an_archive(name: str, tagger: Path):
    (tagger / "traced_model.pt").rename(tagger / name)
    assert ckptconv.inspect(tagger).container == "torchscript"


def test_weights_of_transformers_are_taken_before_an_archive(tagger: Path):
    shutil.copy(GOLDEN / "hf_xlmr_tokcls_transformers-5.23.safetensors", tagger / "model.safetensors")
    (tagger / "traced_model.pt").rename(tagger / "model.torchscript")
    found = ckptconv.inspect(tagger)
    assert found.container == "safetensors"
    assert "the directory has several weight files: took model.safetensors, not model.torchscript" in found.notes


# ------------------------------------------------------------------------------------------- the other questions
def told(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    return result.exit_code, " ".join((result.stdout + result.stderr).split())


def test_an_archive_and_the_directory_that_it_came_from(tmp_path: Path):
    kind = "XLMRobertaForTokenClassification"
    model = made(kind)
    model.save_pretrained(tmp_path / "hf")
    plainly(model, kind, tmp_path / "x.pt")
    code, shown = told("diff", tmp_path / "x.pt", tmp_path / "hf", "--values")
    assert code == 0, shown
    assert "a buffer of zeros that traced models keep" in shown
    code, shown = told("audit", tmp_path / "x.pt", "--against", tmp_path / "hf")
    assert (code, f"against {kind}" in shown, "39 of 41 keys fit" in shown) == (0, True, True), shown
    assert "wrong" not in shown
    code, shown = told("inspect", tmp_path / "x.pt")
    assert (code, "torchscript · xlmr/hf" in shown) == (0, True), shown
    code, shown = told("validate", tmp_path / "x.pt")
    assert (code, "ready" in shown, "num_attention_heads = 1" in shown) == (0, True, True), shown
    with torch.no_grad():
        model.classifier.bias[0] += 1
    model.save_pretrained(tmp_path / "hf")
    code, shown = told("diff", tmp_path / "x.pt", tmp_path / "hf", "--values")
    assert (code, "classifier.bias" in shown) == (1, True), shown


# --------------------------------------------------------------------------------------------------- what is refused
def _frozen(path: Path) -> None:
    kind = "XLMRobertaForTokenClassification"
    torch.jit.freeze(traced(made(kind), kind)).save(path)


def _quantised(path: Path) -> None:
    kind = "XLMRobertaForMaskedLM"
    smaller = torch.ao.quantization.quantize_dynamic(made(kind), {torch.nn.Linear}, dtype=torch.qint8)
    traced(smaller, kind).save(path)


def _quantised_for_mobiles(path: Path) -> None:
    _quantised(path)
    torch.jit.load(path)._save_for_lite_interpreter(str(path))


def _refused() -> Iterator[tuple[Callable[[Path], None], str]]:
    yield _frozen, "is a frozen TorchScript archive (torch.jit.freeze): its "
    yield _quantised, "(__torch__.torch.classes.quantized.LinearPackedParamsBase) is quantised: use the checkpoint"
    yield _quantised_for_mobiles, "is quantised: use the checkpoint that the archive was made from"


@pytest.mark.parametrize(("make", "sentence"), _refused())
def test_frozen_and_quantised_archives_are_called_so(make: Callable[[Path], None], sentence: str, tmp_path: Path):
    make(tmp_path / "x.pt")
    with pytest.raises(Unsupported) as caught:
        run(tmp_path / "x.pt", tmp_path / "hf", "xlmr/hf")
    assert sentence in caught.value.message
    for line in (("convert", tmp_path / "x.pt", tmp_path / "hf", "--to", "xlmr/hf"), ("inspect", tmp_path / "x.pt")):
        code, shown = told(*line)
        assert (code, shown.startswith("error: "), shown.count("error")) == (3, True, 1)
    assert not (tmp_path / "hf").exists()


def test_an_archive_of_another_model_is_refused(tmp_path: Path):
    torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 3))).save(tmp_path / "x.pt")
    code, shown = told("convert", tmp_path / "x.pt", tmp_path / "hf", "--to", "xlmr/hf")
    assert (code, shown.startswith("error: x.pt is in no layout that ckptconv knows; 2 keys such as")) == (3, True)


def test_an_archive_without_a_state_dict_is_refused(tmp_path: Path):
    @torch.jit.script
    def function(x: Tensor) -> Tensor:
        return x + 1

    function.save(str(tmp_path / "x.pt"))
    with pytest.raises(NotACheckpoint, match="holds no state dict"):
        run(tmp_path / "x.pt", tmp_path / "hf", "xlmr/hf")


# ----------------------------------------------------------------------------- to its own layout: other containers too
def test_what_is_in_the_layout_and_the_container_already_is_nothing_to_do(tmp_path: Path):
    golden = GOLDEN / "hf_xlmr_mlm_transformers-5.23.safetensors"
    with pytest.raises(UnknownLayout, match="is in the layout xlmr/hf already; to change only its container"):
        run(golden, tmp_path / "hf", "xlmr/hf")
    run(golden, tmp_path / "fairseq", "xlmr/fairseq", set=HEADS)
    with pytest.raises(UnknownLayout, match="is in the layout xlmr/fairseq already"):
        run(tmp_path / "fairseq", tmp_path / "again", "fairseq")


def test_old_bin_files_become_directories_of_today(tmp_path: Path):
    source = GOLDEN / "hf_xlmr_mlm_transformers-4.30.2.bin"
    run(source, tmp_path / "hf", "xlmr/hf", set=HEADS)
    truth, found = torch.load(source), load(tmp_path / "hf", transformers.XLMRobertaForMaskedLM).state_dict()
    shared = found.keys() & truth.keys()
    assert len(shared) >= len(found) - 2
    assert all(torch.equal(found[key], truth[key]) for key in shared)


@pytest.mark.parametrize("suffix", [".torchscript", ".ptl"])
def test_no_archive_is_written(suffix: str, tmp_path: Path):
    with pytest.raises(WrongUse, match="a file's name must end in"):
        run(GOLDEN / "hf_xlmr_mlm_transformers-4.30.2.bin", tmp_path / f"x{suffix}", "same")


def test_the_golden_archive(tmp_path: Path):
    """Written by transformers 5.23.0; read and compared by both generations."""
    archive = GOLDEN / "ts_tokcls_5.23.0.torchscript"
    run(archive, tmp_path / "hf", "xlmr/hf", set=HEADS)
    truth = torch.jit.load(archive).state_dict()
    found = load(tmp_path / "hf", transformers.AutoModelForTokenClassification).state_dict()
    assert truth.keys() - found.keys() <= set(BUFFERS)
    assert all(torch.equal(value, truth[key]) for key, value in found.items())
