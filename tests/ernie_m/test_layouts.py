"""Every ordered pair of the family's layouts with ERNIE-M on one side: bit for bit; which head a file has; what is
refused, named and told."""

from __future__ import annotations

import json
import pickle
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ckptconv
from ckptconv import Options, convert, diff, inspect, verify
from ckptconv.cli import main
from ckptconv.errors import Damaged, DoesNotFit, Unsafe, Unsupported, WrongUse
from tests.ernie_m.side import GOLDEN, LAYOUTS, SAMPLES, copied, heads, paddle_arrays, paddle_folder, read_json, run

PAIRS = [pair for pair in permutations(LAYOUTS, 2) if any("ernie" in each for each in pair)]
CLASSES = {
    "ErnieMForSequenceClassification": ("sequence_classification", "XLMRobertaForSequenceClassification"),
    "ErnieMForTokenClassification": ("token_classification", "XLMRobertaForTokenClassification"),
    "ErnieMForQuestionAnswering": ("question_answering", "XLMRobertaForQuestionAnswering"),
    "ErnieMForMultipleChoice": ("token_classification", "XLMRobertaForMultipleChoice"),
}
SAME_KEYS = ("sequence_classification", "token_classification", "question_answering")


# ------------------------------------------------------------------------------------------------------- every pair
@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("kind", ["ErnieMModel", "ErnieMForSequenceClassification"])
def test_there_and_back(kind: str, first: str, second: str, tmp_path: Path):
    if kind != "ErnieMModel" and "fairseq-infoxlm" in (first, second):
        kind = "ErnieMModel"  # InfoXLM's training model has no such heads
    source = paddle_folder(tmp_path / "ernie_m-paddle", kind)
    before = source if first == "ernie_m-paddle" else run(source, tmp_path / first, f"xlmr/{first}")
    # fairseq's files have an lm_head, made up here, which ERNIE-M has no place for
    head = {"head": "none"} if kind == "ErnieMModel" and "fairseq" in first else {}
    there = run(before, tmp_path / "there", f"xlmr/{second}", **head)
    assert verify(before, there).good
    back = run(there, tmp_path / "back", f"xlmr/{first}", **({"head": "none"} if kind == "ErnieMModel" else {}))
    assert verify(there, back).good
    _assert_equal(before, back, made_up=("lm_head", "pooler", "token_type", "version", "model_slow"))


def _assert_equal(before: Path, after: Path, made_up: tuple[str, ...]) -> None:
    """Every tensor is there again with its bytes, but for those of names that one side may lack."""
    left, right = (_arrays(folder) for folder in (before, after))
    assert len(left) > 30
    for key, array in left.items():
        if key in right or not any(name in key for name in made_up):
            assert right[key].shape == array.shape
            assert right[key].tobytes() == array.tobytes(), key


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    if (folder / "model_state.pdparams").is_file():
        arrays = paddle_arrays(folder)
        return {
            key if key.startswith(("ernie_m.", "classifier.")) else f"ernie_m.{key}": a for key, a in arrays.items()
        }
    if (folder / "model.safetensors").is_file():
        return load_file(folder / "model.safetensors")
    import torch

    return {key: tensor.numpy() for key, tensor in torch.load(folder / "model.pt", weights_only=False)["model"].items()}


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_casts_on_the_way_to_hf_are_verified(dtype: str, tmp_path: Path):
    source = paddle_folder(tmp_path / "paddle", "ErnieMForSequenceClassification")
    assert verify(source, run(source, tmp_path / "hf", "xlmr/hf", dtype=dtype)).verdict == "proved"


def test_bfloat16_goes_to_paddle_and_back(tmp_path: Path):
    """As uint16, which Paddle itself takes for bfloat16."""
    hf = run(paddle_folder(tmp_path / "paddle", "ErnieMModel"), tmp_path / "hf", "xlmr/hf", dtype="bf16")
    back = run(hf, tmp_path / "back", "xlmr/ernie_m-paddle")
    assert {array.dtype for array in paddle_arrays(back).values()} == {np.dtype("u2")}
    assert verify(hf, back).verdict == "proved"
    again = run(back, tmp_path / "again", "xlmr/hf")
    assert (again / "model.safetensors").read_bytes() == (hf / "model.safetensors").read_bytes()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_gives_the_same_file(protocol: int, tmp_path: Path):
    expected = run(paddle_folder(tmp_path / "a", "ErnieMModel"), tmp_path / "expected", "xlmr/hf")
    found = run(paddle_folder(tmp_path / "b", "ErnieMModel", protocol=protocol), tmp_path / "found", "xlmr/hf")
    assert (found / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


# ---------------------------------------------------------------------------------------------------------- its head
@pytest.mark.parametrize("kind", CLASSES)
def test_the_config_says_which_head_it_is(kind: str, tmp_path: Path):
    option, architecture = CLASSES[kind]
    source = paddle_folder(tmp_path / "paddle", kind)
    hf = run(source, tmp_path / "hf", "xlmr/hf")
    assert read_json(hf / "config.json")["architectures"] == [architecture]
    name = {"sequence_classification": "classifier.out_proj", "question_answering": "qa_outputs"}.get(
        option, "classifier"
    )
    np.testing.assert_array_equal(_arrays(hf)[f"{name}.weight"], heads()[kind]["classifier.weight"].T)
    back = run(hf, tmp_path / "back", "xlmr/ernie_m-paddle")
    assert read_json(back / "config.json")["architectures"] == [kind]
    _assert_equal(source, back, made_up=())
    four = run(source, tmp_path / "four", "xlmr/ernie_m")
    assert read_json(four / "config.json")["architectures"] == [kind]
    assert verify(four, hf).good


@pytest.mark.parametrize("config", [{}, {"architectures": ["ErnieMModel"]}, {"architectures": None}, "{"])
def test_without_a_config_that_says_it_the_head_must_be_named(config: Any, tmp_path: Path):
    source = paddle_folder(tmp_path / "paddle", "ErnieMForTokenClassification", config if config != "{" else {})
    if config == "{":
        (source / "config.json").write_text("{")
    with pytest.raises(
        DoesNotFit, match="could be sequence_classification or token_classification or question_answering"
    ):
        convert(source / "model_state.pdparams", tmp_path / "out", Options(to="xlmr/hf"))
    if config == {}:
        shapes = {}
        for head in SAME_KEYS:
            hf = run(source, tmp_path / head, "xlmr/hf", head=head, set={"num_attention_heads": 4})
            shapes[head] = {key for key in _arrays(hf) if key.startswith(("classifier", "qa_outputs"))}
            assert verify(source, hf).good
            assert not diff(source, hf, values=True).different
        assert len({frozenset(keys) for keys in shapes.values()}) == 3
        bare = run(source, tmp_path / "none", "xlmr/hf", head="none", set={"num_attention_heads": 4})
        assert not any(key.startswith("classifier") for key in _arrays(bare))


def test_inspect_says_what_the_head_could_be(tmp_path: Path):
    source = paddle_folder(tmp_path / "paddle", "ErnieMForTokenClassification", {})
    notes = inspect(source).notes
    assert any("could as well be token_classification, question_answering" in note for note in notes)
    told = paddle_folder(tmp_path / "told", "ErnieMForTokenClassification")
    assert not any("could as well be" in note for note in inspect(told).notes)
    assert inspect(told).dims["tags"] == 5


def test_a_head_that_the_keys_cannot_be_is_refused(tmp_path: Path):
    source = paddle_folder(tmp_path / "paddle", "ErnieMForTokenClassification")
    with pytest.raises(DoesNotFit, match="there is no such head"):
        convert(source, tmp_path / "out", Options(to="xlmr/hf", head="lm_head"))


def test_uie_goes_to_ernie_m_and_nowhere_else(tmp_path: Path):
    source = paddle_folder(tmp_path / "paddle", "UIEM")
    four = run(source, tmp_path / "four", "xlmr/ernie_m")
    assert read_json(four / "config.json")["architectures"] == ["ErnieMForInformationExtraction"]
    np.testing.assert_array_equal(_arrays(four)["linear_start.weight"], heads()["UIEM"]["linear_start.weight"].T)
    back = run(four, tmp_path / "back", "xlmr/ernie_m-paddle")
    assert read_json(back / "config.json")["architectures"] == ["UIEM"]
    _assert_equal(source, back, made_up=())
    for layout in ("hf", "fairseq"):
        with pytest.raises(DoesNotFit, match="UIE's pointers"):
            convert(source, tmp_path / "no", Options(to=f"xlmr/{layout}"))
    assert verify(source, run(source, tmp_path / "bare", "xlmr/hf", head="none")).verdict == "proved_with_losses"


def test_labels_go_along(tmp_path: Path):
    names = {"0": "PER", "1": "LOC", "2": "ORG", "3": "MISC", "4": "O"}
    source = paddle_folder(tmp_path / "paddle", "ErnieMForTokenClassification", {"id2label": names})
    hf = run(source, tmp_path / "hf", "xlmr/hf")
    assert read_json(hf / "config.json")["id2label"] == names
    back = run(hf, tmp_path / "back", "xlmr/ernie_m-paddle")
    assert read_json(back / "config.json")["id2label"] == names


# ------------------------------------------------------------------------------------------- what the other side lacks
def test_a_language_model_head_is_refused_or_left_behind(tmp_path: Path):
    source = GOLDEN / "hf_xlmr_mlm_transformers-4.30.2.bin"
    options = {"set": {"num_attention_heads": 4}}
    with pytest.raises(DoesNotFit, match=r"no masked language model head.*--head none"):
        convert(source, tmp_path / "no", Options(to="xlmr/ernie_m", **options))
    report = convert(source, tmp_path / "out", Options(to="xlmr/ernie_m", head="none", **options))
    lost = [told.key for told in report.plan.dropped if told.reason.startswith("LOST")]
    assert any(key.startswith("lm_head.dense") for key in lost)


def test_norms_before_the_sublayers_are_refused(tmp_path: Path):
    with pytest.raises(DoesNotFit, match="norms after the sublayers only"):
        convert(GOLDEN / "xlmr_xl_tiny.pt", tmp_path / "no", Options(to="xlmr/ernie_m", head="none"))


def test_a_pooler_has_no_place_beside_a_sequence_head(tmp_path: Path):
    hf = run(paddle_folder(tmp_path / "paddle", "ErnieMForSequenceClassification"), tmp_path / "hf", "xlmr/hf")
    arrays = load_file(hf / "model.safetensors")
    more = {
        f"roberta.pooler.dense.{name}": np.full(shape, 3, np.float32)
        for name, shape in (("weight", (32, 32)), ("bias", 32))
    }
    save_file({**arrays, **more}, hf / "model.safetensors")
    report = convert(hf, tmp_path / "out", Options(to="xlmr/ernie_m"))
    assert {told.key for told in report.plan.dropped if told.reason.startswith("LOST")} == set(more)
    np.testing.assert_array_equal(
        _arrays(tmp_path / "out")["ernie_m.pooler.dense.weight"], arrays["classifier.dense.weight"]
    )


@pytest.mark.parametrize("ffn", [128, 64])
def test_the_report_says_what_no_tensor_shows(ffn: int, tmp_path: Path):
    source = paddle_folder(tmp_path / "paddle", "ErnieMModel")
    hf = run(source, tmp_path / "hf", "xlmr/hf")
    arrays = load_file(hf / "model.safetensors")
    cut = {
        key: array[:ffn]
        if "intermediate" in key
        else array[:, :ffn]
        if key.endswith("output.dense.weight") and array.shape[1] == 128
        else array
        for key, array in arrays.items()
    }
    save_file({key: np.ascontiguousarray(array) for key, array in cut.items()}, hf / "model.safetensors")
    config = read_json(hf / "config.json")
    (hf / "config.json").write_text(json.dumps({**config, "intermediate_size": ffn}))
    notes = convert(hf, tmp_path / "out", Options(to="xlmr/ernie_m-paddle")).notes
    assert any("padded on the right" in note for note in notes)
    assert any("can't load this model" in note for note in notes) == (ffn != 128)
    between = convert(tmp_path / "out", tmp_path / "four", Options(to="xlmr/ernie_m")).notes
    assert not any("padded on the right" in note for note in between)


# --------------------------------------------------------------------------------------------------- files and errors
@pytest.mark.parametrize("name", SAMPLES.values())
def test_inspect_names_paddles_samples(name: str):
    found = inspect(GOLDEN / f"{name}.pdparams")
    assert (found.layout, found.container) == ("xlmr/ernie_m-paddle", "paddle")
    assert [(each.name, each.evidence) for each in found.producer] == [
        ("paddle", "a pickle of numpy arrays, and the parameters' names in a program")
    ]


def test_what_wrote_a_folder_is_told(tmp_path: Path):
    folder = paddle_folder(tmp_path / "paddle", "ErnieMModel", {"paddlenlp_version": "2.6.1"})
    found = inspect(folder)
    assert found.layout == "xlmr/ernie_m-paddle"
    assert [(each.name, each.version) for each in found.producer] == [("paddle", ""), ("paddlenlp", "2.6.1")]


def test_the_same_file_again_keeps_paddles_names(tmp_path: Path):
    source = GOLDEN / f"{SAMPLES['Model']}.pdparams"
    convert(source, tmp_path / "same.pdparams", Options(to="same"))
    before, after = (pickle.loads(path.read_bytes()) for path in (source, tmp_path / "same.pdparams"))
    assert list(before) == list(after)
    assert before["StructuredToParameterName@@"] == after["StructuredToParameterName@@"]
    convert(source, tmp_path / "x.safetensors", Options(to="same"))
    convert(tmp_path / "x.safetensors", tmp_path / "y.pdparams", Options(to="same"))
    assert "StructuredToParameterName@@" not in pickle.loads((tmp_path / "y.pdparams").read_bytes())


def test_a_single_file_must_be_called_what_it_is(tmp_path: Path):
    source = paddle_folder(tmp_path / "paddle", "ErnieMModel")
    with pytest.raises(WrongUse, match=r"\.pt, \.safetensors or \.pdparams"):
        convert(source, tmp_path / "out.bin", Options(to="xlmr/hf"))
    hf = run(source, tmp_path / "hf", "xlmr/hf")
    convert(hf, tmp_path / "one.pdparams", Options(to="xlmr/ernie_m-paddle"))
    assert inspect(tmp_path / "one.pdparams").layout == "xlmr/ernie_m-paddle"


def _optimizer() -> dict[str, Any]:
    array = np.zeros(3, np.float32)
    return {"linear_0.w_0_moment1_0": array, "linear_0.w_0_moment2_0": array, "LR_Scheduler": {"last_epoch": 3}}


class _Calls:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "optimizer state": (_optimizer(), Unsupported, "it is the state of a Paddle optimizer, not a model"),
    "a function": ({"embeddings.word_embeddings.weight": _Calls()}, Unsafe, "print"),
    "integers": (None, DoesNotFit, "have a dtype that weights don't have"),
    "a slice lost": (
        {
            "w@@.0": np.zeros(3, np.float32),
            "UnpackBigParamInfor@@": {"w": {"OriginShape": [6], "slices": ["w@@.0", "w@@.1"]}},
        },
        Damaged,
        "was cut into slices that aren't all there",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_exit_3(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    content, kind, told = BAD[name]
    source = paddle_folder(tmp_path / "paddle", "ErnieMModel")
    if content is None:
        content = {key: np.zeros(array.shape, np.int16) for key, array in paddle_arrays(source).items()}
    with (source / "model_state.pdparams").open("wb") as file:
        pickle.dump(content, file, 2 if "slice" in name else 4)
    with pytest.raises(kind, match=told):
        convert(source, tmp_path / "out", Options(to="xlmr/hf"))
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(source), str(tmp_path / "out"), "--to", "xlmr/hf"])
    assert stop.value.code == 3
    out = capsys.readouterr()
    assert "executed" not in out.out + out.err
    assert "Traceback" not in out.err
    assert not (tmp_path / "out").exists()


def test_a_naive_port_that_kept_paddles_names_but_not_its_orientation_is_refused(tmp_path: Path):
    """Square matrices hide it; the feed-forward ones don't."""
    source = paddle_folder(tmp_path / "paddle", "ErnieMModel")
    arrays = paddle_arrays(source)
    turned = {k: np.ascontiguousarray(a.T) if a.ndim == 2 and "embeddings" not in k else a for k, a in arrays.items()}
    save_file(turned, tmp_path / "model.safetensors")
    with pytest.raises(DoesNotFit, match="Wrong shapes"):
        convert(tmp_path / "model.safetensors", tmp_path / "out", Options(to="xlmr/hf"))


def test_the_forward_pass_says_which_half_it_cannot_run(tmp_path: Path):
    source = paddle_folder(tmp_path / "paddle", "ErnieMModel")
    hf = run(source, tmp_path / "hf", "xlmr/hf")
    report = verify(source, hf, forward=True)
    assert report.verdict == "not_run"
    assert any("Paddle's models are not run here" in reason for reason in report.forward.not_run)
    assert not copied(hf, tmp_path / "copy").joinpath("model_state.pdparams").exists()
    # The vocabulary is not there; nothing else is wrong with it.
    assert {each.code for each in ckptconv.validate(source).findings if each.severity == "error"} == set()
