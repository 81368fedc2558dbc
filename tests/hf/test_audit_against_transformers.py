"""audit against a class says what transformers' own loading report says, key for key (both environments).

The other side is always `from_pretrained(folder, output_loading_info=True)` on real files.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.errors import CkptconvError
from ckptconv.hf import DeltaLMConfig, DeltaLMForConditionalGeneration, DeltaLMModel

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SMALL = {"vocab_size": 45, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "max_position_embeddings": 34, "type_vocab_size": 1, "pad_token_id": 1,
         "bos_token_id": 0, "eos_token_id": 2, "num_labels": 7}  # fmt: skip
TASKS = ("Model", "ForMaskedLM", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification",
         "ForQuestionAnswering", "ForMultipleChoice")  # fmt: skip
CLASSES = [f"{model}{task}" for model in ("XLMRoberta", "XLMRobertaXL") for task in TASKS]
DELTALM = {"DeltaLMModel": DeltaLMModel, "DeltaLMForConditionalGeneration": DeltaLMForConditionalGeneration}
FIVE = transformers.__version__.startswith("5")


def kind(name: str) -> Any:
    return DELTALM.get(name) or getattr(transformers, name)


def reported(folder: Path, name: str, **options: Any) -> tuple[list[str], list[str], list[str]]:
    """transformers' missing, unexpected and mismatched keys."""
    _, info = kind(name).from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    mismatched = [each if isinstance(each, str) else each[0] for each in info["mismatched_keys"]]  # 4.57: the keys only
    return sorted(info["missing_keys"]), sorted(info["unexpected_keys"]), sorted(mismatched)


def audited(folder: Path, name: str, **options: Any) -> tuple[list[str], list[str], list[str]]:
    """ours: of the same folder, by its own config, into the same class."""
    report = ckptconv.audit(folder, folder, name, **options)
    lists = (report.missing_keys, report.unexpected_keys, report.mismatched_keys)
    assert all(each.reason for keys in lists for each in keys)
    missing, unexpected, mismatched = (sorted(each.key for each in keys) for keys in lists)
    return missing, unexpected, mismatched


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """saved(class name, **config fields) → a directory that the class itself has written."""
    root = tmp_path_factory.mktemp("saved")

    @cache
    def make(name: str, **fields: Any) -> Path:
        folder = root / f"{name}-{'-'.join(f'{key}={value}' for key, value in fields.items())}"
        config = kind(name).config_class(**{**(SMALL if "XLM" in name else {}), **fields})
        kind(name)(config).save_pretrained(folder)
        return folder

    return make


def edited(folder: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """A copy of the directory with other tensors, in a .bin file, which may hold anything."""
    to.mkdir()
    shutil.copy(folder / "config.json", to)
    torch.save(change(load_file(folder / "model.safetensors")), to / "pytorch_model.bin")
    return to


def configured(folder: Path, to: Path, **fields: Any) -> Path:
    """A copy of the directory with another config."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, **fields}))
    return to


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("writer", CLASSES)
def test_every_class_on_the_files_of_every_class(saved: Callable[..., Path], writer: str, name: str):
    assert audited(saved(writer), name) == reported(saved(writer), name)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_on_its_own_files_is_exact(saved: Callable[..., Path], name: str):
    report = ckptconv.audit(saved(name), saved(name))
    assert (report.target, report.verdict) == (name, "exact")
    assert report.loader == f"transformers {transformers.__version__}"


@pytest.mark.parametrize("name", ["XLMRobertaForMaskedLM", "XLMRobertaModel", "XLMRobertaForTokenClassification"])
@pytest.mark.parametrize("file", sorted(path.name for path in GOLDEN.glob("hf_xlmr_*.[bs][ia]*")))
def test_files_of_every_generation(saved: Callable[..., Path], tmp_path: Path, file: str, name: str):
    suffix = "model.safetensors" if file.endswith("safetensors") else "pytorch_model.bin"
    shutil.copy(GOLDEN / file, tmp_path / suffix)
    fields = {"vocab_size": 50} if "2.3.0" in file else {}
    shutil.copy(saved("XLMRobertaForMaskedLM", **fields) / "config.json", tmp_path)
    assert audited(tmp_path, name) == reported(tmp_path, name)


EDITS: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "as they are": dict,
    "old names": lambda state: {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in state.items()
    },
    "a wrapper's prefix": lambda state: {f"lf.{key}": value for key, value in state.items()},
    "two wrappers' prefixes": lambda state: {f"module.model.{key}": value for key, value in state.items()},
    "buffers": lambda state: {
        **state,
        "roberta.embeddings.position_ids": torch.arange(34)[None],
        "roberta.embeddings.token_type_ids": torch.zeros(1, 34, dtype=torch.long),
        "embeddings.position_ids": torch.arange(34)[None],
    },
    "strangers": lambda state: {**state, "foo": torch.zeros(2), "roberta.foo.bar": torch.zeros(2), "": torch.zeros(1)},
    "tied keys": lambda state: {
        **state,
        "lm_head.decoder.weight": state["roberta.embeddings.word_embeddings.weight"],
        "lm_head.decoder.bias": torch.zeros(45),
    },
    "only the tied key": lambda state: {
        **{key: value for key, value in state.items() if "word_embeddings" not in key},
        "lm_head.decoder.weight": state["roberta.embeddings.word_embeddings.weight"],
    },
    "a layer less": lambda state: {key: value for key, value in state.items() if ".layer.1." not in key},
    "other shapes": lambda state: {key: torch.zeros(3) if "dense" in key else value for key, value in state.items()},
    "scalars": lambda state: {key: torch.tensor(1.0) if "bias" in key else value for key, value in state.items()},
    "nothing that fits": lambda state: {"x.y": torch.zeros(3)},
}


@pytest.mark.parametrize("name", ["XLMRobertaModel", "XLMRobertaForMaskedLM", "XLMRobertaForSequenceClassification"])
@pytest.mark.parametrize("edit", EDITS)
def test_edited_files(saved: Callable[..., Path], tmp_path: Path, edit: str, name: str):
    folder = edited(saved("XLMRobertaForMaskedLM"), tmp_path / "x", EDITS[edit])
    assert audited(folder, name) == reported(folder, name)


CONFIGS = {
    "more layers": {"num_hidden_layers": 4},
    "fewer layers": {"num_hidden_layers": 1},
    "another vocabulary": {"vocab_size": 50},
    "another width": {"hidden_size": 64},
    "other labels": {"id2label": {str(number): str(number) for number in range(9)}, "label2id": {}},
    "untied": {"tie_word_embeddings": False},
    "decoder with cross attention": {"is_decoder": True, "add_cross_attention": True},
}


@pytest.mark.parametrize(
    "name", ["XLMRobertaForCausalLM", "XLMRobertaForTokenClassification", "XLMRobertaXLForMaskedLM"]
)
@pytest.mark.parametrize("change", CONFIGS)
def test_another_config(saved: Callable[..., Path], tmp_path: Path, change: str, name: str):
    folder = configured(saved(name), tmp_path / "x", **CONFIGS[change])
    assert audited(folder, name) == reported(folder, name)


def test_an_untied_model_under_a_config_that_ties(saved: Callable[..., Path], tmp_path: Path):
    folder = configured(
        saved("XLMRobertaForMaskedLM", tie_word_embeddings=False), tmp_path / "x", tie_word_embeddings=True
    )
    assert audited(folder, "XLMRobertaForMaskedLM") == reported(folder, "XLMRobertaForMaskedLM")
    report = ckptconv.audit(folder, folder)
    assert [(each.key, each.both, each.expected) for each in report.tied if not each.expected] == [
        ("lm_head.decoder.weight", True, False)
    ]
    assert report.verdict == "does_not_fit"


def test_shards(saved: Callable[..., Path], tmp_path: Path):
    kind("XLMRobertaModel").from_pretrained(saved("XLMRobertaModel")).save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert audited(tmp_path, "XLMRobertaForMaskedLM") == reported(tmp_path, "XLMRobertaForMaskedLM")


def test_a_file_that_transformers_4_refuses_as_a_whole(saved: Callable[..., Path], tmp_path: Path):
    """Keys of a bare model beside keys of a head: 4.57 calls the file corrupted, 5 loads it."""
    folder = edited(
        saved("XLMRobertaForMaskedLM"),
        tmp_path / "x",
        lambda state: {key.removeprefix("roberta."): value for key, value in state.items()},
    )
    if FIVE:
        assert audited(folder, "XLMRobertaForMaskedLM") == reported(folder, "XLMRobertaForMaskedLM") == ([], [], [])
        return
    with pytest.raises(ValueError, match="corrupted"):
        reported(folder, "XLMRobertaForMaskedLM")
    report = ckptconv.audit(folder, folder)
    assert report.verdict == "does_not_fit"
    assert "corrupted" in report.diagnoses[0].sentence


SHARING = [(True, True), (False, True), (False, False)]


@pytest.mark.parametrize("name", DELTALM)
@pytest.mark.parametrize("writer", DELTALM)
@pytest.mark.parametrize(("share", "tie"), SHARING)
def test_deltalm(tmp_path: Path, writer: str, name: str, share: bool, tie: bool):
    config = DeltaLMConfig(
        vocab_size=30, d_model=16, encoder_layers=2, decoder_layers=1, encoder_ffn_dim=24, decoder_ffn_dim=20,
        encoder_attention_heads=4, decoder_attention_heads=2, max_position_embeddings=20,
        share_encoder_decoder_embeddings=share, tie_word_embeddings=tie,
    )  # fmt: skip
    DELTALM[writer](config).save_pretrained(tmp_path)
    assert audited(tmp_path, name) == reported(tmp_path, name)
    assert ckptconv.audit(tmp_path, tmp_path).verdict == "exact"


@pytest.mark.parametrize("name", DELTALM)
def test_deltalm_of_the_public_port(tmp_path: Path, name: str):
    shutil.copy(GOLDEN / "hf_deltalm_fengshen_transformers-4.30.2.bin", tmp_path / "pytorch_model.bin")
    DeltaLMConfig(
        vocab_size=44, d_model=32, encoder_layers=4, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=32,
        architectures=["DeltaLMForConditionalGeneration"],
    ).save_pretrained(tmp_path)  # fmt: skip
    assert audited(tmp_path, name) == reported(tmp_path, name) == ([], [], [])
    report = ckptconv.audit(tmp_path, tmp_path, name)
    assert "final_logits_bias" in {each.key for each in report.ignored}
    assert report.verdict == "exact"


def test_ten_billion_parameters_take_no_memory(saved: Callable[..., Path], tmp_path: Path):
    """XLM-R XXL is 43 GB in float32, most of them missing here; run apart, so that its memory can be limited."""
    small = saved("XLMRobertaXLForMaskedLM")
    sizes = {"hidden_size": 4096, "num_hidden_layers": 48, "num_attention_heads": 32, "intermediate_size": 16384,
             "vocab_size": 250880, "max_position_embeddings": 514}  # fmt: skip
    large = configured(small, tmp_path / "x", **sizes)
    program = (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))\n"
        "from ckptconv import audit\nreport = audit(sys.argv[1], sys.argv[2])\n"
        "print(report.verdict, len(report.missing_keys), len(report.mismatched_keys))"
    )
    arguments = [sys.executable, "-c", program, str(small), str(large)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    there = len(load_file(small / "model.safetensors"))
    assert done.stdout.split() == ["does_not_fit", str(46 * 16), str(there)], done.stderr[-2000:]


OTHERS = {
    "BertForMaskedLM": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "T5ForConditionalGeneration": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "LlamaForCausalLM": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "MixtralForCausalLM": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                           "intermediate_size": 64, "num_local_experts": 2, "num_key_value_heads": 2},
}  # fmt: skip


@pytest.mark.parametrize("writer", OTHERS)
def test_any_class_of_transformers(saved: Callable[..., Path], tmp_path: Path, writer: str):
    """Mixtral's experts are one tensor in the model and many in the file (transformers 5)."""
    folder = saved(writer, vocab_size=45, **OTHERS[writer])
    assert audited(folder, writer) == reported(folder, writer) == ([], [], [])
    assert ckptconv.audit(folder, folder).verdict == "exact"
    state = load_file(folder / "model.safetensors")
    shutil.copy(folder / "config.json", tmp_path)
    keys = sorted(state)
    less = {key: state[key] for key in keys[1:]} | {"foo": torch.zeros(1)}
    save_file(less, tmp_path / "model.safetensors", {"format": "pt"})
    assert audited(tmp_path, writer) == reported(tmp_path, writer)


CODE = """from transformers import PreTrainedModel, PretrainedConfig
import torch
class MineConfig(PretrainedConfig):
    model_type = "mine"
    def __init__(self, width=4, **more):
        self.width = width
        super().__init__(**more)
class MineModel(PreTrainedModel):
    config_class = MineConfig
    base_model_prefix = "mine"
    def __init__(self, config):
        super().__init__(config)
        self.first = torch.nn.Linear(config.width, config.width)
        self.second = torch.nn.Linear(config.width, 3)
        self.post_init()
    def _init_weights(self, module):
        pass
"""


def test_custom_code(tmp_path: Path):
    (tmp_path / "modeling_mine.py").write_text(CODE)
    code = {"AutoConfig": "modeling_mine.MineConfig", "AutoModel": "modeling_mine.MineModel"}
    document = {"model_type": "mine", "architectures": ["MineModel"], "width": 5, "auto_map": code}
    (tmp_path / "config.json").write_text(json.dumps(document))
    state = {"first.weight": torch.zeros(5, 5), "second.weight": torch.zeros(2, 5), "third.weight": torch.zeros(1)}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    _, info = transformers.AutoModel.from_pretrained(
        tmp_path, trust_remote_code=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    report = ckptconv.audit(tmp_path, tmp_path, trust_remote_code=True)
    assert {each.key for each in report.missing_keys} == set(info["missing_keys"]) == {"first.bias", "second.bias"}
    assert {each.key for each in report.unexpected_keys} == set(info["unexpected_keys"]) == {"third.weight"}
    assert [(each.key, each.got, each.wanted) for each in report.mismatched_keys] == [("second.weight", (2, 5), (3, 5))]
    with pytest.raises(CkptconvError, match=r"needs custom code \(modeling_mine\.MineModel"):
        ckptconv.audit(tmp_path, tmp_path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_file(saved: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    """Keys lost, renamed, added and reshaped at random."""
    writer, name = (data.draw(st.sampled_from(CLASSES[:7])) for _ in range(2))
    state = load_file(saved(writer) / "model.safetensors")
    parts = st.sampled_from(["roberta", "lm_head", "classifier", "embeddings", "pooler", "dense", "LayerNorm", "gamma",
                             "beta", "bias", "weight", "0", "module", "position_ids"])  # fmt: skip
    lost = data.draw(st.sets(st.sampled_from(sorted(state)), max_size=len(state) - 1))
    made = data.draw(st.lists(st.lists(parts, min_size=1, max_size=4).map(".".join), max_size=5))
    reshaped = data.draw(st.sets(st.sampled_from(sorted(state)), max_size=3))
    content = {key: value for key, value in state.items() if key not in lost} | {key: torch.zeros(3) for key in made}
    content |= {key: torch.zeros(2, 2) for key in reshaped & set(content)}
    folder = edited(saved(writer), tmp_path_factory.mktemp("any") / "x", lambda _: content)
    report = ckptconv.audit(folder, folder, name)
    if any("refuses the file" in each.sentence for each in report.diagnoses):
        with pytest.raises(ValueError, match="corrupted"):
            reported(folder, name)
    else:
        assert audited(folder, name) == reported(folder, name)
