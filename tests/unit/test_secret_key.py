"""Where the service's keys come from, and who gets to see them."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktqueue import secret_key
from ktqueue.errors import ConfigurationError
from ktqueue.settings import Settings
from ktqueue.webhook_signing import Keyring, new_key

SHOW = """
import sys
from pathlib import Path
from ktqueue import secret_key
from ktqueue.settings import Settings
settings = Settings(home=Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
print(secret_key.load(settings).default_secret())
"""


def test_a_key_from_the_settings_needs_no_file(tmp_path: Path) -> None:
    key = new_key()

    ring = secret_key.load(Settings(home=tmp_path, secret_key=key))

    assert ring.default_secret() == Keyring(key).default_secret()
    assert not list(tmp_path.iterdir())


def test_without_one_a_file_is_made_that_only_its_owner_reads(tmp_path: Path) -> None:
    home = tmp_path / "not" / "there"
    before = os.umask(0)
    try:
        ring = secret_key.load(Settings(home=home))
    finally:
        os.umask(before)

    assert [path.name for path in home.iterdir()] == ["secret.key"]
    assert stat.S_IMODE((home / "secret.key").stat().st_mode) == 0o600
    assert secret_key.load(Settings(home=home)).default_secret() == ring.default_secret()
    assert Keyring((home / "secret.key").read_text()).default_secret() == ring.default_secret()


def the(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SHOW, str(tmp_path / "home")]
    started = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        for _ in range(4)
    ]
    with ExitStack() as each:
        running = [each.enter_context(process) for process in started]
        assert [the(process.stdout).readline() for process in running] == ["ready\n"] * len(running)
        for process in running:
            the(process.stdin).close()
        said = {the(process.stdout).read() for process in running}

    assert len(said) == 1
    assert said.pop().startswith("whsec_")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["secret.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o666, 0o610])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret.key"
    path.write_text(new_key())
    path.chmod(mode)

    with pytest.raises(ConfigurationError, match=r"secret\.key: others may read this key: run chmod 600"):
        secret_key.load(Settings(home=tmp_path))


def as_text(content: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_text(content, encoding="utf-8")
        path.chmod(0o600)

    return make


@pytest.mark.parametrize(
    "make",
    [
        as_text(""),
        as_text("hunter2"),
        as_text("hunter2\u00e9"),
        Path.mkdir,
        lambda path: path.symlink_to(path.parent / "no/x"),
    ],
)
def test_a_file_that_holds_no_key_is_named_but_not_repeated(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "secret.key")

    with pytest.raises(ConfigurationError) as refused:
        secret_key.load(Settings(home=tmp_path))

    assert f"{tmp_path}/secret.key" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_home_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")

    with pytest.raises(
        ConfigurationError, match=r"KTQ_SECRET_KEY: not set, and .*/home/secret\.key can't be used: File"
    ):
        secret_key.load(Settings(home=tmp_path / "home"))


def test_a_key_is_passed_on_and_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = new_key()
    settings = Settings(home=tmp_path, secret_key=key)

    ring = secret_key.load(settings)

    assert settings.as_env()["KTQ_SECRET_KEY"] == key
    assert key not in f"{settings!r} {settings} {ring!r} {caplog.text}"


@pytest.mark.parametrize("wrong", ["hunter2", "hunter2,", pytest.param(f"{new_key()}hunter2", id="a key and more")])
@pytest.mark.parametrize(
    ("port", "said"), [("1", "KTQ_SECRET_KEY: must be keys separated by commas, each base64 of"), ("x", "KTQ_PORT: ")]
)
def test_a_wrong_key_is_not_repeated_not_even_by_a_traceback(wrong: str, port: str, said: str) -> None:
    reading = "import os; from ktqueue.settings import Settings; Settings.from_env(os.environ)"
    ended = subprocess.run(
        [sys.executable, "-c", reading],
        env={**os.environ, "KTQ_SECRET_KEY": wrong, "KTQ_PORT": port},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode != 0
    assert said in ended.stderr
    assert wrong not in ended.stderr


@given(st.lists(st.sampled_from([new_key(), new_key() + " ", " " + new_key(), "", "x", "AAAA", "\u00e9"]), min_size=1))
def test_the_settings_take_what_a_keyring_takes(keys: list[str]) -> None:
    text = ",".join(keys)

    def taken(read: Callable[[], object]) -> bool:
        try:
            read()
        except ConfigurationError:
            return False
        return True

    assert text == "" or taken(lambda: Settings.from_env({"KTQ_SECRET_KEY": text})) == taken(lambda: Keyring(text))
