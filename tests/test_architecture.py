"""The house as design.md draws it: imports run one way, start-up is light, text is escaped, files are small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ckptconv

PACKAGE = Path(ckptconv.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
LEAVES = {
    "arrays",
    "errors",
    "memory",
    "parallel",
    "progress",
    "smallfiles",
    "dtypes",
    "text",
    "keys",
    "words",
    "__init__",
}
# Room → the rooms that it may import from; leaves are open to all.
ALLOWED = {
    "tables": {"tables"},
    "plan": {"plan", "tables"},
    "containers": {"containers"},
    "receipts": {"containers"},
    "vocabulary": {"vocabulary"},
    "detect": {"tables", "containers"},
    "conversion": {"conversion", "plan", "tables", "containers", "detect", "receipts", "vocabulary"},
    "values": {"values", "containers"},
    "proof": {"proof", "tables", "containers", "detect", "values"},
    "forward": {"forward", "conversion", "plan", "tables", "containers", "detect", "hf", "fairseq_plugin"},
    "auditing": {"auditing", "tables", "containers", "detect"},
    "validation": {"validation", "conversion", "plan", "tables", "containers", "detect", "vocabulary", "values"},
    "commands": {
        "commands",
        "conversion",
        "auditing",
        "forward",
        "proof",
        "receipts",
        "validation",
        "values",
        "plan",
        "tables",
        "containers",
        "detect",
    },
    "report": {"report", "commands", "forward", "proof", "receipts", "validation", "values", "plan", "tables"},
    "cli": {"cli", "commands", "report", "tables"},
    "hf": {"hf"},
    "fairseq_plugin": {"fairseq_plugin"},
    "__main__": {"cli"},
    "__init__": {"commands"},
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "ckptconv":
                rooms.add(parts[1] if len(parts) > 1 else "__init__")
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path):
    here = room(path)
    assert imported_rooms(path) <= ALLOWED.get(here, set()) | LEAVES


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_room_is_crowded(path: Path):
    assert len(path.read_text().splitlines()) <= 420


HEAVY = ("torch", "transformers", "fairseq", "safetensors", "sentencepiece", "tokenizers")
WRITING = ("ckptconv.containers.writing", "ckptconv.conversion.write")
UNREAD = (*HEAVY, *WRITING, "numpy", "ckptconv.values")  # what who reads no tensor's bytes has no use for
UNUSED = ("hashlib", "difflib", "concurrent.futures", "ckptconv.receipts")
EXAMPLE = "examples/deltalm-numbers/finetuned"
BARE = "tests/golden/deltalm_pretrained_weights_tiny.pt"
WORDS = tuple(f"ckptconv.vocabulary.{name}" for name in ("spm", "bpe", "tokenizer", "from_tokenizer", "normalizer"))
STARTS = {
    "import": ("import ckptconv", (*HEAVY, "numpy", "rich", "click", "ckptconv.containers")),
    "help": ("main(['--help'])", (*HEAVY, "numpy", "rich", "ckptconv.containers", "ckptconv.tables")),
    "inspect": (f"main(['inspect', {EXAMPLE!r}])", (*UNREAD, "ckptconv.conversion")),
    "inspect json": (
        f"main(['inspect', {EXAMPLE!r}, '--json'])",
        (*UNREAD, "rich", "ckptconv.conversion", "ckptconv.cli.convert"),
    ),
    # sentencepiece is there for the tokenizer.
    "dry run": (
        f"main(['convert', {EXAMPLE!r}, 'x', '--to', 'hf', '--dry-run', '--json'])",
        (*HEAVY[:4], *WRITING, "rich", "hashlib", "difflib"),
    ),
    "dry run without a vocabulary": (
        f"main(['convert', {BARE!r}, 'x', '--to', 'hf', '--dry-run', '--json'])",
        (*HEAVY, *WRITING, *WORDS, *UNUSED[:2], *UNUSED[3:], "rich", "ckptconv.containers.paddle"),
    ),
    "inspect stats": (f"main(['inspect', {EXAMPLE!r}, '--stats', '--json'])", (*HEAVY, "rich", "ckptconv.conversion")),
    "diff": (f"main(['diff', {EXAMPLE!r}, {EXAMPLE!r}, '--json'])", (*HEAVY, *WRITING, *UNUSED, "rich", "numpy")),
    "diff values": (f"main(['diff', {EXAMPLE!r}, {EXAMPLE!r}, '--values', '--json'])", (*HEAVY, "rich")),
    "audit": (
        f"main(['audit', {EXAMPLE!r}, '--against', 'deltalm/fairseq', '--json'])",
        (*UNREAD, *UNUSED, "rich", "ckptconv.vocabulary"),
    ),
    "audit files": (f"main(['audit', {EXAMPLE!r}, '--against', {EXAMPLE!r}, '--json'])", (*HEAVY, "rich")),
    "validate": (f"main(['validate', {EXAMPLE!r}, '--json'])", (*HEAVY[:4], "rich")),
    "verify": (f"main(['verify', {EXAMPLE!r}, {EXAMPLE!r}, '--json'])", (*HEAVY, "rich", "ckptconv.forward")),
    "tables": ("main(['tables', 'show', 'deltalm'])", (*HEAVY, "numpy", "ckptconv.containers")),
}


@pytest.mark.parametrize("name", STARTS)
def test_start_up_imports_only_what_it_uses(name: str):
    code, unwanted = STARTS[name]
    program = (
        "import sys\nfrom ckptconv.cli import main\n" if "main(" in code else "import sys\n"
    ) + f"try:\n    {code}\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
    program += f"found = [name for name in {unwanted!r} if name in sys.modules]\nassert not found, found\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_text_directory_of_the_package_is_listed_for_the_wheel():
    listed = (PACKAGE.parent / "setup.cfg").read_text()
    for folder in {path.parent for path in MODULES}:
        name = ".".join(folder.relative_to(PACKAGE.parent).parts)
        assert f"\n    {name}\n" in listed, f"{name} is missing under packages in setup.cfg"
