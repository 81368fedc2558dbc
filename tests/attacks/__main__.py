"""`python -m tests.attacks FOLDER` writes the corpus and its manifest; without one, the names go to stdout."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.attacks.manifest import CASES, write

if len(sys.argv) > 1:
    write(Path(sys.argv[1]))
else:
    for case in CASES:
        print(f"{case.name}\t{case.must}\t{case.wrong}")
