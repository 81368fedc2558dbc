"""Bad input: exit code 3, one clear sentence, no traceback, nothing written, nothing lost, nothing executed."""

from __future__ import annotations

import json
import os
import pickle
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ckptconv.cli import main
from tests.commands.conftest import FINETUNED, GOLDEN, NUMBERS

CHECKPOINT = FINETUNED / "checkpoint_best.pt"


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def finetuned() -> dict:
    return torch.load(CHECKPOINT, weights_only=False)


def _changed(path: Path, change: Callable[[dict], None]) -> Path:
    checkpoint = finetuned()
    change(checkpoint["model"])
    torch.save(checkpoint, path)
    return path


def _text(path: Path) -> Path:
    path.write_text("<!doctype html><title>404</title>")
    return path


def _cut(path: Path, keep: float) -> Path:
    data = CHECKPOINT.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def _evil(path: Path) -> Path:
    path.write_bytes(pickle.dumps({"model": Evil()}, protocol=2))
    return path


def _evil_zip(path: Path) -> Path:
    torch.save({"model": {"a": torch.ones(2)}, "x": Evil()}, path)
    return path


def _evil_legacy(path: Path) -> Path:
    torch.save({"model": {"a": torch.ones(2)}, "x": Evil()}, path, _use_new_zipfile_serialization=False)
    return path


def _other_model(path: Path) -> Path:
    torch.save({f"bert.encoder.layer.{i}.attention.self.query.weight": torch.ones(2, 2) for i in range(4)}, path)
    return path


def _cut_safetensors(path: Path) -> Path:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-7])
    return path


INPUTS: dict[str, tuple[Callable[[Path], Path], str, list[str]]] = {
    "no such file": (lambda path: path, "not_a_checkpoint|cannot_read|os|damaged", ["bad.pt"]),
    "an HTML page": (_text, "not_a_checkpoint", ["HTML"]),
    "an empty file": (lambda path: (path.touch(), path)[1], "not_a_checkpoint|damaged", ["empty"]),
    "random bytes": (lambda path: (path.write_bytes(os.urandom(4096)), path)[1], "not_a_checkpoint|damaged|unsafe", []),
    "a zip cut in the middle": (lambda path: _cut(path, 0.5), "damaged", []),
    "a zip without its last bytes": (lambda path: _cut(path, 0.999), "damaged", []),
    "a cut safetensors": (_cut_safetensors, "damaged", []),
    "os.system in a bare pickle": (_evil, "unsafe|not_a_checkpoint|unsupported", []),
    "os.system in a zip": (_evil_zip, "unsafe", ["posix.system"]),
    "os.system in a legacy file": (_evil_legacy, "unsafe", ["posix.system"]),
    "another model": (_other_model, "unknown_layout", ["deltalm/hf", "deltalm/fairseq", "bert.encoder"]),
    "a layer missing": (
        lambda path: _changed(path, lambda m: [m.pop(key) for key in list(m) if "encoder.layers.1." in key]),
        "does_not_fit",
        ["Missing, 16", "encoder.layers.1.fc1.weight"],
    ),
    "keys left over": (
        lambda path: _changed(path, lambda m: m.update({"adapter.0.w": torch.ones(1), "adapter.1.w": torch.ones(1)})),
        "does_not_fit",
        ["Left over, 2", "adapter.{0..1}.w"],
    ),
    "a wrong shape": (
        lambda path: _changed(path, lambda m: m.update({"decoder.layers.0.fc3.weight": torch.ones(64, 64)})),
        "does_not_fit",
        ["mappings/deltalm.tbl:", "got [64, 64], expected [128, 64]", "tgt_ffn,d"],
    ),
    "a few bytes that stand for terabytes": (
        lambda path: _changed(path, lambda m: m.update({"encoder.version": torch.zeros(1).expand(1 << 40)})),
        "unsafe|does_not_fit",
        [],
    ),
    "no tensors": (lambda path: (torch.save({"epoch": 3}, path), path)[1], "not_a_checkpoint", ["epoch"]),
}  # fmt: skip


def invoke(*arguments: object) -> tuple[int, dict, str]:
    runner = CliRunner()
    result = runner.invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    document = json.loads(result.stdout) if "--json" in arguments and result.stdout else {}
    return result.exit_code, document, result.stderr


@pytest.mark.parametrize("name", INPUTS)
def test_bad_input_is_one_sentence_and_exit_code_3(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    make, kinds, words = INPUTS[name]
    source = make(tmp_path / "bad.pt")
    before = sorted(tmp_path.iterdir())
    code, document, _ = invoke("convert", source, tmp_path / "out", "--to", "hf", "--json")
    assert code == 3
    assert document["error"]["kind"] in kinds.split("|"), document
    for word in words:
        assert word in document["error"]["message"]
    code, _, stderr = invoke("convert", source, tmp_path / "out", "--to", "hf")
    assert code == 3
    assert stderr.startswith("error: ")
    assert "Traceback" not in stderr
    assert sorted(tmp_path.iterdir()) == before


def test_an_expanded_giant_is_refused_with_same_too(tmp_path: Path):
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "in.pt")
    code, document, _ = invoke("convert", tmp_path / "in.pt", tmp_path / "out.safetensors", "--to", "same", "--json")
    assert (code, document["error"]["kind"]) == (3, "unsafe")
    assert [path.name for path in tmp_path.iterdir()] == ["in.pt"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dict", FINETUNED / "dict.de.txt", "--vocab", 100], "dict.de.txt has 163 symbols"),
        (["--dict", GOLDEN / "deltalm_finetuned_untied.pt"], "dict"),
        (["--dict", "nowhere.txt"], "nowhere.txt is no file"),
        (["--set", "d_model=1024"], "d_model"),
        (["--set", "encoder_attention_heads=5"], "expected that the heads divide the width"),
        (["--set", "encoder_attention_heads=0"], "expected that the heads divide the width"),
        (["--set", 'dropout="high"'], "expected a value such as 0.1"),
        (["--set", "dropout=NaN"], "expected a finite number"),
        (["--from", "pretrained"], "Missing"),
        (["--table", NUMBERS / "test.de"], "expected"),
    ],
)
def test_options_that_contradict_the_checkpoint(arguments: list, words: str, tmp_path: Path):
    code, document, _ = invoke("convert", CHECKPOINT, tmp_path / "out", "--to", "hf", "--json", *arguments)
    assert code == 3
    assert words in document["error"]["message"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "hf", "--set", "attention_hats=3"], "no such field; closest: "),
        (["--to", "hf", "--from", "deltalm/nothing"], "There is no layout"),
        (["--to", "deltalm/nothing"], "There is no layout"),
        (["--to", "same", "--vocab", 10, "--set", "x=1"], "--vocab, --set can't go with --to same"),
    ],
)
def test_options_that_do_not_exist_or_mean_nothing_are_wrong_usage(arguments: list, words: str, tmp_path: Path):
    code, document, _ = invoke("convert", CHECKPOINT, tmp_path / "out", "--json", *arguments)
    assert (code, document["error"]["kind"]) == (2, "usage")
    assert words in document["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_name_of_another_kind_is_refused(tmp_path: Path):
    code, document, _ = invoke("convert", CHECKPOINT, tmp_path / "out.bin", "--to", "hf", "--json")
    assert (code, document["error"]["kind"]) == (2, "usage")
    assert list(tmp_path.iterdir()) == []


def test_a_bias_of_integers_is_no_weight(tmp_path: Path):
    source = _changed(
        tmp_path / "in.pt", lambda m: m.update({"encoder.layers.0.fc1.bias": m["encoder.layers.0.fc1.bias"].long()})
    )
    code, document, _ = invoke("convert", source, tmp_path / "out", "--to", "hf", "--json")
    assert (code, document["error"]["kind"]) == (3, "does_not_fit")
    assert "encoder.layers.0.fc1.bias (I64)" in document["error"]["message"]


def test_a_prefix_in_front_of_every_key_is_taken_off_and_told(tmp_path: Path):
    state = {f"module.{key}": value for key, value in finetuned()["model"].items()}
    torch.save({**finetuned(), "model": state}, tmp_path / "ddp.pt")
    code, document, _ = invoke("convert", tmp_path / "ddp.pt", tmp_path / "out", "--to", "hf", "--json")
    assert code == 0
    assert "all keys begin with `module.`: read without it" in document["notes"]
    sources = {key for step in document["tensors"] for key in step["from"]}
    sources |= {told["key"] for told in document["dropped"]}
    assert state.keys() <= sources
    code, document, _ = invoke("inspect", tmp_path / "ddp.pt", "--json")
    assert (document["layout"], document["misfits"]["unexpected"]) == ("deltalm/fairseq", 0)


def test_a_sparse_giant_of_layers_is_quick_and_unknown(tmp_path: Path):
    state = {f"encoder.layers.{number}.fc1.bias": torch.ones(1) for number in range(20_000)}
    torch.save(state, tmp_path / "sparse.pt")
    code, document, _ = invoke("inspect", tmp_path / "sparse.pt", "--json")
    assert (code, document["layout"]) == (0, None)


def test_what_ascii_terminals_can_not_show_is_escaped():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "ckptconv", "convert", str(CHECKPOINT), "nowhere", "--to", "hf", "--dry-run"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, cwd=NUMBERS.parents[1])
    assert done.returncode == 0, done.stderr
    assert b"\\u2192" in done.stdout


def test_a_defect_of_ours_is_one_sentence_too(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("ckptconv.commands.inspect.inspect", broken)
    code, document, _ = invoke("inspect", CHECKPOINT, "--json")
    assert (code, document["error"]["kind"]) == (3, "internal")


@pytest.mark.parametrize("lines", [100, 200])
def test_a_dictionary_of_another_size_is_refused(lines: int, tmp_path: Path):
    words = tmp_path / "dict.txt"
    words.write_text("".join(f"w{number} 1\n" for number in range(lines)))
    code, document, _ = invoke("convert", CHECKPOINT, tmp_path / "out", "--to", "hf", "--json", "--dict", words)
    assert (code, document["error"]["kind"]) == (3, "vocabulary_mismatch")
    for word in (str(lines + 4), "163 rows", "--vocab"):
        assert word in document["error"]["message"]


def test_a_dictionary_that_merely_lies_beside_one_file_is_left_out_with_a_note(tmp_path: Path):
    (tmp_path / "model.pt").write_bytes(CHECKPOINT.read_bytes())
    (tmp_path / "dict.txt").write_text("a 1\n")
    code, document, _ = invoke("convert", tmp_path / "model.pt", tmp_path / "out", "--to", "hf", "--json")
    assert code == 0
    assert any(note.startswith("not used: dict.txt has 5 symbols") for note in document["notes"])
    code, document, _ = invoke("convert", tmp_path, tmp_path / "out2", "--to", "hf", "--json")
    assert (code, document["error"]["kind"]) == (3, "vocabulary_mismatch")


def test_a_config_that_contradicts_the_tensors_names_both(hf_copy: Path, tmp_path: Path):
    config = json.loads((hf_copy / "config.json").read_text())
    (hf_copy / "config.json").write_text(json.dumps({**config, "encoder_layers": 12, "d_model": 65}))
    code, document, _ = invoke("convert", hf_copy, tmp_path / "out", "--to", "fairseq", "--json")
    assert code == 3
    assert "encoder_layers = 12, but the tensors say encoder_layers = 4" in document["error"]["message"]
    assert "d_model = 65" in document["error"]["message"]


def test_a_final_logits_bias_with_values_is_not_lost(tmp_path: Path):
    state = torch.load(GOLDEN / "hf_deltalm_fengshen_transformers-4.30.2.bin", weights_only=True)
    state["final_logits_bias"][0, 3] = 1.0
    torch.save(state, tmp_path / "model.bin")
    code, document, _ = invoke("convert", tmp_path / "model.bin", tmp_path / "out", "--to", "fairseq", "--json")
    assert code == 3
    assert "final_logits_bias holds values" in document["error"]["message"]


@pytest.mark.parametrize("name", ["out", "out.pt", "out.safetensors"])
def test_an_existing_output_is_kept_unless_told(name: str, tmp_path: Path):
    target = tmp_path / name
    if name == "out":
        target.mkdir()
        (target / "mine.txt").write_text("keep")
    else:
        target.write_text("keep")
    code, document, _ = invoke("convert", CHECKPOINT, target, "--to", "hf", "--json")
    assert (code, document["error"]["kind"]) == (3, "output_exists")
    assert "--overwrite" in document["error"]["message"]
    kept = target / "mine.txt" if name == "out" else target
    assert kept.read_text() == "keep"
    code, document, _ = invoke("convert", CHECKPOINT, target, "--to", "hf", "--json", "--overwrite")
    assert code == 0
    if name == "out":
        assert (target / "mine.txt").read_text() == "keep"


def test_the_input_is_never_written_to(tmp_path: Path):
    copy = tmp_path / "in.pt"
    copy.write_bytes(CHECKPOINT.read_bytes())
    code, document, _ = invoke("convert", copy, copy, "--to", "hf", "--overwrite", "--json")
    assert (code, document["error"]["kind"]) == (3, "output_exists")
    assert copy.read_bytes() == CHECKPOINT.read_bytes()


def test_a_read_only_folder_and_a_full_disk_are_said(tmp_path: Path):
    code, document, _ = invoke("convert", CHECKPOINT, tmp_path / "no" / "out", "--to", "hf", "--json")
    assert (code, document["error"]["kind"]) == (3, "cannot_write")
    code, document, _ = invoke("convert", CHECKPOINT, "/dev/full", "--to", "hf", "--json")
    assert code == 3
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize(("name", "limit"), [("out", 700_000), ("out.pt", 700_000), ("out", 9_000)])
def test_no_space_left_is_said_and_leaves_nothing(name: str, limit: int, tmp_path: Path):
    """The system refuses to let any file grow above the limit, as a full disk would."""
    program = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from ckptconv.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-B", "-c", program, "convert", CHECKPOINT, tmp_path / name, "--to", "hf", "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=NUMBERS.parents[1])
    assert done.returncode == 3, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "cannot_write"
    assert "no space left" in error["message"]
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_is_exit_code_2_and_json_too():
    for arguments in (["convert"], ["convert", "a", "b"], ["nothing"], ["inspect", "--depth", "0", "x"]):
        code, _, stderr = invoke(*arguments)
        assert (code, "Usage:" in stderr) == (2, True)
    code, document, _ = invoke("convert", "a", "b", "--json")
    assert (code, document["error"]["kind"]) == (2, "usage")


def test_names_from_a_file_never_reach_the_terminal_raw(tmp_path: Path):
    state = finetuned()["model"] | {"evil\x1b[31m\u202e\r\nkey": torch.ones(1)}
    torch.save({"model": state, "\x1b]0;title\x07": 1}, tmp_path / "x.pt")
    for arguments in (
        ["inspect", tmp_path / "x.pt", "--tensors"],
        ["convert", tmp_path / "x.pt", tmp_path / "o", "--to", "hf"],
    ):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert not set(result.output) & set("\x1b\x07\u202e\r")
        assert "\\x1b[31m" in result.output


def test_what_did_not_happen_is_said_too(tmp_path: Path):
    result = CliRunner().invoke(main, ["convert", str(FINETUNED), str(tmp_path / "out"), "--to", "hf"])
    words = [line.split()[:3] for line in result.output.splitlines()]
    assert ["created", "0", "nothing"] in words
    assert ["dropped", "0", "nothing"] not in words
