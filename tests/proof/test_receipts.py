"""Receipts: true, complete, the same wherever and whenever they are written; and checked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ckptconv import verify
from ckptconv.containers.files import Source, Stamp
from ckptconv.errors import CkptconvError, Damaged, NotACheckpoint
from ckptconv.receipts import Hashes, hashed
from tests.commands.conftest import FINETUNED, GOLDEN, NUMBERS, run

UNTIED = GOLDEN / "deltalm_finetuned_untied.pt"


def receipt(folder: Path) -> Any:
    return json.loads((folder / "conversion.json").read_text())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_names_every_file_with_its_hash(tmp_path: Path):
    report = run(FINETUNED, tmp_path / "out", "deltalm/hf", dtype="bf16", max_positions=20)
    told, there = receipt(tmp_path / "out"), {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    listed = {tmp_path / "out" / each["name"]: each for each in told["files"]}
    assert set(listed) == there - {tmp_path / "out" / "conversion.json"}
    assert report.files == (*(each["name"] for each in told["files"]), "conversion.json")
    for path, each in listed.items():
        assert (each["size"], each["sha256"]) == (path.stat().st_size, sha256(path))
    model = next(FINETUNED.glob("*.pt"))
    assert told["source"] == {
        "name": model.name, "size": model.stat().st_size, "sha256": sha256(model), "layout": "deltalm/fairseq",
        "files": [{"name": model.name, "size": model.stat().st_size, "sha256": sha256(model)}],
    }  # fmt: skip
    assert {each["name"] for each in told["companions"]} == {
        *(path.name for path in FINETUNED.glob("dict*")),
        "spm.model",
    }
    for each in told["companions"]:
        assert each["sha256"] == sha256(FINETUNED / each["name"])
    table = Path(__file__).resolve().parents[2] / "mappings" / "deltalm.tbl"
    assert told["table"] == {"family": "deltalm", "name": "deltalm.tbl", "sha256": sha256(table)}
    assert told["options"] == {"to": "deltalm/hf", "dtype": "bf16", "max_positions": 20}
    assert {each["to"] for each in told["resized"]} == {22}  # fairseq's first position is 2
    assert [(each["from"], each["to"]) for each in told["cast"]] == [("F32", "BF16")]
    assert {each["key"] for each in told["dropped"]} >= {"encoder.version", "decoder.version"}
    assert told["dims"]["positions"] == 22


def test_several_source_files_have_one_hash_that_sha256sum_gives(tmp_path: Path):
    run(UNTIED, tmp_path / "sharded", "hf", max_shard_size=100_000)
    run(tmp_path / "sharded", tmp_path / "back", "fairseq")
    told = receipt(tmp_path / "back")["source"]
    assert len(told["files"]) > 2
    names = [each["name"] for each in told["files"]]
    listed = subprocess.run(["sha256sum", *names], capture_output=True, cwd=tmp_path / "sharded", check=True).stdout
    assert told["sha256"] == hashlib.sha256(listed).hexdigest()


def test_one_file_has_its_receipt_beside_it(tmp_path: Path):
    for name in ("a.pt", "b.safetensors"):
        run(UNTIED, tmp_path / name, "hf" if name.startswith("b") else "pretrained")
        told = json.loads((tmp_path / f"{name}.conversion.json").read_text())
        assert told["files"] == [
            {"name": name, "size": (tmp_path / name).stat().st_size, "sha256": sha256(tmp_path / name)}
        ]
        assert verify(tmp_path / name).verdict == "intact"


def test_without_one(tmp_path: Path):
    report = run(UNTIED, tmp_path / "out", "hf", receipt=False)
    assert not (tmp_path / "out" / "conversion.json").exists()
    assert "conversion.json" not in report.files
    with pytest.raises(NotACheckpoint, match="has no receipt"):
        verify(tmp_path / "out")


@pytest.mark.parametrize("name", ["out", "out.pt"])
def test_no_receipt_of_another_file_stays(name: str, tmp_path: Path):
    run(UNTIED, tmp_path / name, "pretrained")
    report = run(UNTIED, tmp_path / name, "pretrained", receipt=False, overwrite=True)
    assert any(note.startswith("removed the older ") and note.endswith("conversion.json") for note in report.notes)
    assert not list(tmp_path.rglob("*conversion.json"))


def test_a_receipt_is_no_companion(tmp_path: Path):
    run(UNTIED, tmp_path / "hf", "hf")
    run(tmp_path / "hf", tmp_path / "again", "same", dtype="fp16")
    assert receipt(tmp_path / "again")["options"] == {"to": "same", "dtype": "fp16"}
    assert verify(tmp_path / "again").verdict == "intact"


PROGRAM = "import sys, ckptconv; ckptconv.convert(sys.argv[1], sys.argv[2], ckptconv.Options(to='hf'))"


def test_the_same_wherever_and_whenever(tmp_path: Path):
    found = set()
    for number, more in enumerate(
        ({"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C"}, {"PYTHONHASHSEED": "2", "LC_ALL": "C.UTF-8"})
    ):
        source = tmp_path / f"somewhere{number}" / "model.pt"
        source.parent.mkdir()
        shutil.copy(UNTIED, source)
        os.utime(source, (number, number))
        output = tmp_path / (f"{number}" * 20)
        subprocess.run([sys.executable, "-c", PROGRAM, source, output], check=True, env={**os.environ, **more})
        text = (output / "conversion.json").read_text()
        assert str(tmp_path) not in text
        found.add(text)
    assert len(found) == 1


# ------------------------------------------------------------------------------------------------------ checking them
def test_changed_and_missing_files_are_found(tmp_path: Path):
    run(NUMBERS / "pretrained.pt", tmp_path / "out", "hf")
    out = tmp_path / "out"
    assert verify(out).verdict == "intact"
    weights = bytearray((out / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (out / "model.safetensors").write_bytes(weights)
    (out / "config.json").write_text("{}")
    (out / "generation_config.json").unlink()
    report = verify(out)
    assert report.verdict == "changed"
    status = {each.name: each.status for each in report.files}
    assert status["model.safetensors"] == status["config.json"] == "changed"
    assert status["generation_config.json"] == "missing"
    assert status["modeling_deltalm.py"] == "same"


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"files": []}', '{"files": 5}', '{"files": [{"name": 5}]}', "\0", '{"files": {}, "files": []}',
        "[" * 100_000, '{"files": [' + ",".join(["1"] * 100) + "]}",
    ],
    ids=range(10),
)  # fmt: skip
def test_what_is_no_receipt(text: str, tmp_path: Path):
    (tmp_path / "conversion.json").write_text(text)
    with pytest.raises(CkptconvError, match="no receipt"):
        verify(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "", "link", "fifo", "\x1b[31m"])
def test_no_file_outside_is_opened(name: str, tmp_path: Path):
    folder = tmp_path / "out"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    os.mkfifo(folder / "fifo")
    (folder / "link").symlink_to("/dev/zero")
    each = {"name": name, "size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    (folder / "conversion.json").write_text(json.dumps({"files": [each]}))
    report = verify(folder)
    assert [each.status for each in report.files] in (["changed"], ["missing"])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../secret", "a name that leaves the folder"),
        ("../nowhere", "a name that leaves the folder"),
        ("/etc/passwd", "a name that leaves the folder"),
        ("/nowhere", "a name that leaves the folder"),
        ("x/../x", "a name that leaves the folder"),
        ("../../blobs/secret", "a name that leaves the folder"),
        ("", "a name that leaves the folder"),
        ("link", "a link that leaves the folder"),
        ("up/secret", "a link that leaves the folder"),
        ("longer", "7 bytes, 6 were written"),
    ],
)
def test_what_is_wrong_with_a_name_is_told(name: str, told: str, tmp_path: Path):
    """Also of a file that isn't there: nothing outside is even looked for."""
    folder = tmp_path / "snapshots" / "out"
    folder.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    for secret in (folder.parent / "secret", tmp_path / "blobs" / "secret", folder / "x"):
        secret.write_text("secret")
    (folder / "longer").write_text("secrets")
    (folder / "link").symlink_to("../secret")
    (folder / "up").symlink_to("..")
    each = {"name": name, "size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    (folder / "conversion.json").write_text(json.dumps({"files": [each]}))
    assert [(each.status, each.told) for each in verify(folder).files] == [("changed", told)]


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path):
    folder = tmp_path / "snapshots" / "revision"
    folder.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "abc").write_text("secret")
    (folder / "config.json").symlink_to("../../blobs/abc")
    each = {"name": "config.json", "size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    (folder / "conversion.json").write_text(json.dumps({"files": [each]}))
    assert verify(folder).verdict == "intact"


# ---------------------------------------------------------------------------------------------------------- the hashes
def stamp_of(path: Path) -> Stamp:
    with Source(path) as source:
        return source.stamp


def test_a_file_that_changed_since_it_was_opened_is_noticed(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"before")
    stamp = stamp_of(path)
    assert hashed(path, "x", stamp).sha256 == hashlib.sha256(b"before").hexdigest()
    path.write_bytes(b"after it")
    with pytest.raises(Damaged, match="was changed while it was being read"):
        hashed(path, "x", stamp)


def test_a_file_that_changes_while_it_is_hashed_is_noticed(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(bytes(3 << 20))

    def append() -> bool:
        with path.open("ab") as file:
            file.write(b"more")
        return False

    with pytest.raises(Damaged, match="was changed while it was being read"):
        hashed(path, "x", stopped=append)


def test_hashing_stops_when_it_is_told_to(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(InterruptedError):
        hashed(tmp_path / "x", "x", stopped=lambda: True)


def test_two_names_of_one_file_are_told_apart(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x")
    os.link(tmp_path / "a", tmp_path / "b")
    hashes = Hashes()
    found = [hashes.of(tmp_path / name, stamp_of(tmp_path / name)) for name in "ab"]
    assert [each.name for each in found] == ["a", "b"]
    assert found[0].sha256 == found[1].sha256 == hashlib.sha256(b"x").hexdigest()
