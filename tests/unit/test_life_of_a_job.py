"""docs/life-of-a-job.md names every file of the code, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "life-of-a-job.md"


def test_the_document_meets_every_file() -> None:
    text = DOC.read_text(encoding="utf-8").replace("\\_", "_")
    named = set(re.findall(r"\*\*([\w/]+\.py)\*\*", text))
    paths = [path for folder in ("ktqueue", "api", "worker") for path in (ROOT / folder).rglob("*.py")]
    there = {str(path.relative_to(ROOT)) for path in paths if path.stat().st_size}

    assert named == there, f"not named: {sorted(there - named)}; not there: {sorted(named - there)}"
