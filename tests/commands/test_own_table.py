"""A table of one's own, `--table`: fused projections and transposed matrices, from file to file, against torch."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch

from ckptconv.errors import WrongUse
from tests.commands.conftest import FINETUNED, ROOT, run
from tests.toy import TABLE


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "mine.tbl").write_text(TABLE)
    return tmp_path / "mine.tbl"


def layouts() -> dict[str, dict[str, torch.Tensor]]:
    """The same random weights in the three layouts, made by torch."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    split = {"emb.weight": random(7, 4)}
    for layer in range(2):
        split |= {f"h.{layer}.{name}.weight": random(4, 4) for name in "qkv"}
        split |= {f"h.{layer}.{name}.bias": random(4) for name in "qkv"}
        split |= {f"h.{layer}.fc.weight": random(6, 4)}
    fused, paddle = {"embed.weight": split["emb.weight"]}, {"word.weight": split["emb.weight"]}
    for layer in range(2):
        prefix = f"h.{layer}."
        for param in ("weight", "bias"):
            parts = [split[f"{prefix}{name}.{param}"] for name in "qkv"]
            fused[f"{prefix}in_{param}"] = torch.cat(parts)
            paddle |= {f"{prefix}{name}.{param}": part for name, part in zip("qkv", parts, strict=True)}
        fused[f"{prefix}fc.weight"] = split[f"{prefix}fc.weight"]
        paddle[f"{prefix}fc.weight"] = split[f"{prefix}fc.weight"].T.contiguous()
    return {"split": split, "fused": {"model": fused}, "paddle": paddle}


@pytest.mark.parametrize("dtype", ["keep", "bf16"])
@pytest.mark.parametrize(("source", "target"), list(permutations(["split", "fused", "paddle"], 2)))
def test_every_pair_equals_what_torch_makes(source: str, target: str, dtype: str, table: Path, tmp_path: Path):
    made = layouts()
    torch.save(made[source], tmp_path / "in.pt")
    run(tmp_path / "in.pt", tmp_path / "out.pt", f"toy/{target}", layout_from=f"toy/{source}", table=table, dtype=dtype)
    found, expected = torch.load(tmp_path / "out.pt", weights_only=True), made[target]
    if target == "fused":
        found, expected = found["model"], expected["model"]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value.bfloat16() if dtype == "bf16" else value), key


def test_a_table_without_a_resize_line_refuses_to_resize(table: Path, tmp_path: Path):
    table.write_text(TABLE.replace("resize  vocab  v\n", ""))
    torch.save(layouts()["split"], tmp_path / "in.pt")
    with pytest.raises(WrongUse, match="no `resize vocab` line"):
        run(tmp_path / "in.pt", tmp_path / "out.pt", "fused", table=str(table), vocab=5)
    assert not (tmp_path / "out.pt").exists()


def test_a_copy_of_a_shipped_table_is_the_same_family(tmp_path: Path):
    copy = tmp_path / "fork.tbl"
    copy.write_text((ROOT / "mappings" / "deltalm.tbl").read_text())
    report = run(FINETUNED, tmp_path / "out", "deltalm/hf", table=copy)
    assert report.plan.target == "deltalm/hf"
