"""docs/configuration.md says of each setting and each entry what the code says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from ktqueue.models import EngineName, load_catalogue
from ktqueue.settings import PREFIX, Settings
from tests.support.tables import instances_table, models_table, settings_table

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "configuration.md"


def between(marker: str) -> str:
    text = DOC.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {marker} -->\n(.*?)\n<!-- end of {marker} -->", text, re.DOTALL)
    assert found is not None, f"{DOC} has no {marker}"
    return found[1]


@pytest.mark.parametrize(
    ("marker", "made"), [("settings", settings_table), ("models", models_table), ("instances", instances_table)]
)
def test_the_table_is_up_to_date(marker: str, made: Callable[[], str]) -> None:
    expected = made()

    assert between(marker) == expected, f"put this between the markers:\n{expected}"


def test_the_examples_load_and_show_every_engine(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "models.toml"
    path.write_text("\n".join(examples), encoding="utf-8")

    assert {spec.engine for spec in load_catalogue(path).values()} == set(get_args(EngineName))


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_no_page_names_a_setting_that_is_not_there(page: Path) -> None:
    named = set(re.findall(rf"\b{PREFIX}([A-Z_]+)\b", page.read_text(encoding="utf-8")))

    assert {name for name in named if not name.startswith("TEST_")} <= {
        name.upper() for name in Settings.model_fields
    } | {"API_KEY"}
