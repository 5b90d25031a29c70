"""What must hold before the service starts: each that does not is one clear line, and nothing has been started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ktqueue.errors import ConfigurationError, UnknownModel
from ktqueue.models import Catalogue, load_catalogue
from ktqueue.supervisor import check_models, hold_home, listen
from tests.support.stack import free_port

ROOT = Path(__file__).resolve().parents[2]
ECHO = '[models.echo]\nengine = "echo"\n'
MISSING = '[models.gone]\nengine = "causal"\nsource = "package:no_such_package/model"\n'


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that someone listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def catalogue(folder: Path, text: str) -> Catalogue:
    path = folder / "models.toml"
    path.write_text(text)
    return load_catalogue(path)


# --- the port --------------------------------------------------------------------------------------------------


def test_a_taken_port_is_named(taken: int) -> None:
    with pytest.raises(ConfigurationError, match=f"can't listen on 127.0.0.1:{taken}: Address already in use"):
        listen("127.0.0.1", taken)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"can't listen on 192\.0\.2\.1:8000: "):
        listen("192.0.2.1", 8000)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_connections_are_taken_from_the_first_moment(host: str) -> None:
    try:
        [listener] = listen(host, free_port())
    except ConfigurationError as error:
        pytest.skip(str(error))
    with listener, socket.create_connection(listener.getsockname()[:2]) as client:
        client.sendall(b"hello")
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(5) == b"hello"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares out connections")
def test_connections_are_shared_out_among_processes_and_with_no_other_service() -> None:
    port = free_port()
    with ExitStack() as stack:
        listeners = [stack.enter_context(listener) for listener in listen("127.0.0.1", port, 2)]
        for _ in range(64):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        for listener in listeners:
            accepted, _ = listener.accept()
            accepted.close()
        with pytest.raises(ConfigurationError, match="Address already in use"):
            listen("127.0.0.1", port, 2)


# --- the home --------------------------------------------------------------------------------------------------


def test_a_home_is_made_for_its_owner_alone_and_locked(tmp_path: Path) -> None:
    home = tmp_path / "a" / "home"
    held = hold_home(home)
    try:
        assert home.stat().st_mode & 0o777 == 0o700
        assert list(home.iterdir()) == []
        with pytest.raises(ConfigurationError, match=f"KTQ_HOME: {home}: another ktqueue is running in this folder"):
            hold_home(home)
    finally:
        os.close(held)

    os.close(hold_home(home))


@pytest.mark.parametrize("below", ["", "home"])
def test_a_home_that_can_not_be_is_named(tmp_path: Path, below: str) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    home = in_the_way / below

    with pytest.raises(ConfigurationError) as error:
        hold_home(home)
    assert str(error.value).startswith(f"KTQ_HOME: {home}: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(ConfigurationError, match=f"KTQ_HOME: {tmp_path}: is not writable"):
        hold_home(tmp_path)


# --- the models ------------------------------------------------------------------------------------------------


def test_models_that_can_run_are_let_be(tmp_path: Path) -> None:
    check_models(catalogue(tmp_path, ECHO + MISSING), ["echo"])


def test_an_unknown_alias_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="no model named 'nobody'; there are: echo"):
        check_models(catalogue(tmp_path, ECHO), ["echo", "nobody"])


def test_weights_that_are_not_installed_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="model 'gone': the package 'no_such_package' is not installed"):
        check_models(catalogue(tmp_path, ECHO + MISSING), ["echo", "gone"])


# --- all of it -------------------------------------------------------------------------------------------------

UP = """
import sys
from ktqueue.errors import KtqueueError
from ktqueue.settings import Settings
from ktqueue.supervisor import up, worker

for name in {without}:
    sys.modules[name] = None
try:
    {call}
except KtqueueError as error:
    sys.exit(str(error))
"""


class Started:
    """What became of a service that should not start."""

    def __init__(self, folder: Path, models: str = ECHO, *, call: str = "up(settings)", without: str = "[]") -> None:
        path = folder / "models.toml"
        path.write_text(models)
        self.settings = {"home": str(folder / "home"), "port": free_port(), "models": str(path)}
        self._call = call
        self._without = without

    def refused(self) -> str:
        """The line that it ends with."""
        made = f"settings = Settings.model_validate({self.settings!r}); {self._call}"
        done = subprocess.run(
            [sys.executable, "-c", UP.format(without=self._without, call=made)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stdout == ""
        [line] = done.stderr.splitlines()
        return line


def test_a_taken_port_ends_the_start(tmp_path: Path, taken: int) -> None:
    started = Started(tmp_path)
    started.settings["port"] = taken

    assert started.refused() == f"can't listen on 127.0.0.1:{taken}: Address already in use"
    assert not (tmp_path / "home").exists()


def test_a_home_in_use_ends_the_start(tmp_path: Path) -> None:
    held = hold_home(tmp_path / "home")
    try:
        assert Started(tmp_path).refused().endswith("another ktqueue is running in this folder")
    finally:
        os.close(held)
    assert list((tmp_path / "home").iterdir()) == []


def test_a_missing_model_ends_the_start(tmp_path: Path) -> None:
    line = "model 'gone': the package 'no_such_package' is not installed"

    assert Started(tmp_path, ECHO + MISSING).refused() == line
    assert Started(tmp_path, ECHO + MISSING, call='worker(settings, ["gone"])').refused() == line


def test_a_model_that_nothing_can_run_ends_the_start(tmp_path: Path) -> None:
    model = f'[models.m]\nengine = "causal"\nsource = "path:{tmp_path}"\n'

    line = Started(tmp_path, model, without='["torch"]').refused()
    assert line == "model 'm': needs torch and transformers: install ktqueue[models]"


def test_a_database_that_can_not_be_opened_ends_the_start(tmp_path: Path) -> None:
    started = Started(tmp_path)
    started.settings["database_url"] = f"sqlite:///{tmp_path}/no/such/folder/db"

    line = started.refused()
    assert line.startswith("the database can't be brought up to date: ")
    assert "unable to open database file" in line
