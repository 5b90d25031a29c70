"""docker-compose.yml without Docker: read as the Compose specification says, its services run as plain processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from compose_spec import PyCompose

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<how>:-|:\?)(?P<rest>[^}]*))?\}")


def interpolate(text: str, values: Mapping[str, str]) -> str:
    """Replace ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}``. Raises KeyError with the message."""

    def value(match: re.Match[str]) -> str:
        if values.get(match["name"]):
            return values[match["name"]]
        if match["how"] == ":-":
            return match["rest"]
        raise KeyError(match["rest"] or match["name"])

    return VARIABLE.sub(value, text)


def read(text: str, values: Mapping[str, str]) -> PyCompose:
    """Parse and validate. Raises whatever the specification's own types reject."""
    compose = PyCompose.from_json(json.dumps(yaml.safe_load(interpolate(text, values))))
    compose.validate()
    return compose


def image_environment() -> dict[str, str]:
    """The ENV of the Dockerfile's last stage."""
    stage = (ROOT / "Dockerfile").read_text().rsplit("\nFROM ", 1)[1].replace("\\\n", " ")
    lines = [line.removeprefix("ENV ") for line in stage.splitlines() if line.startswith("ENV ")]
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


class Role:
    """One service's own command and environment, as a process on this machine."""

    def __init__(self, service: Mapping[str, Any], moved: Mapping[str, str], log: Path) -> None:
        """``moved`` says what a name or path of the containers is on this machine."""
        given = {name: str(value) for name, value in service["environment"].items()}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KTQ_")}
        environment = inherited | image_environment() | given
        # Containers have their own file systems and names; these are the same things here.
        environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self._env = {name: _move(value, moved) if name != "PATH" else value for name, value in environment.items()}
        self._env |= {name: value for name, value in moved.items() if name.startswith("KTQ_")}
        self._argv = list(service["command"])
        self._log = log

    def run(self) -> int:
        """Run to its end; the exit status."""
        with self._log.open("ab") as log:
            return subprocess.run(
                self._argv, env=self._env, stdout=log, stderr=log, check=False, timeout=120
            ).returncode

    def start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self._argv, env=self._env, stdout=log, stderr=log)


def _move(value: str, moved: Mapping[str, str]) -> str:
    for name, here in moved.items():
        if not name.startswith("KTQ_"):
            value = value.replace(name, here)
    return value
