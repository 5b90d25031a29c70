"""Which processes make up the service, and what must hold before they start."""

from __future__ import annotations

import fcntl
import http.client
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from ktqueue import ledgers
from ktqueue.embedded import answers, server_command, socket_path
from ktqueue.errors import ConfigurationError
from ktqueue.models import Catalogue, load_catalogue
from ktqueue.processes import Program, Supervisor
from ktqueue.roster import Ear, named, roster, word_of
from ktqueue.settings import Settings

BACKLOG = 1024
"""Connections that may wait to be accepted."""

Asked: TypeAlias = Callable[[], Sequence[Program] | None]
"""The programs that are to run besides, when that has changed; None is no news."""

logger = logging.getLogger(__name__)


def up(settings: Settings) -> int:
    """Serve everything in the foreground until told to stop; the exit status. Raises ConfigurationError."""
    _log_plainly(settings)
    if settings.metrics_port:
        raise ConfigurationError("KTQ_METRICS_PORT: not for `ktqueue up`, whose API tells everything at /metrics")
    catalogue = load_catalogue(settings.models)
    check_models(catalogue, list(catalogue))
    listeners = listen(settings.host, settings.port, settings.api_workers)
    home = hold_home(settings.home)
    try:
        own_redis = not settings.redis_url
        if own_redis:
            settings = settings.model_copy(update={"redis_url": f"unix://{socket_path(settings.home)}"})
        orders = migrate(settings)
        check_exposure(settings)
        counted = settings.home / "metrics"
        ledgers.empty(counted)
        os.environ[ledgers.FOLDER] = str(counted)
        ear = Ear()
        # Known already, and lanes need not wait for the one who watches it from now on.
        os.write(ear.mouth, word_of(roster(list(catalogue), list(catalogue), orders)))
        programs = [*([_redis(settings)] if own_redis else []), *_roles(settings, list(catalogue), listeners, ear)]
        return Supervisor(programs, grace_s=settings.grace_seconds, asked=_lanes(settings, catalogue, ear)).run(
            lambda: print(_banner(settings, catalogue), flush=True)
        )
    finally:
        if own_redis:
            socket_path(settings.home).unlink(missing_ok=True)
        os.close(home)


def worker(settings: Settings, models: Sequence[str]) -> int:
    """Serve the lanes of ``models`` (all, if none is named) until told to stop; the exit status.

    What operators have ordered of this worker comes before that.
    """
    _log_plainly(settings)
    catalogue = load_catalogue(settings.models)
    chosen = list(models) or list(catalogue)
    check_models(catalogue, chosen)
    ear = Ear()
    return _counted(
        settings,
        lambda: [_roster(settings, chosen, ear)],
        f"as {named(settings.worker_name)}",
        asked=_lanes(settings, catalogue, ear),
    )


def counted_role(settings: Settings, role: str) -> int:
    """Serve ``light`` or ``deliver``, and what it counts, until told to stop; the exit status."""
    _log_plainly(settings)
    return _counted(settings, lambda: [_worker(role, settings, role)], role, asked=lambda: None)


def _counted(settings: Settings, programs: Callable[[], list[Program]], said: str, *, asked: Asked) -> int:
    """Run programs, and those asked for besides; and one that tells what they count, if there is a port for it."""

    def run(more: Sequence[Program]) -> int:
        return Supervisor([*programs(), *more], grace_s=settings.grace_seconds, asked=asked).run(
            lambda: logger.info("serving %s", said)
        )

    if not settings.metrics_port:
        return run([])
    with ledgers.own_folder():
        return run([Program("metrics", _python("api.metrics_server"), _environment(settings))])


def check_models(catalogue: Catalogue, models: Sequence[str]) -> None:
    """Raises ConfigurationError if an alias is unknown, its weights or keys are not there, or nothing can run them."""
    for model in models:
        spec = catalogue[model]
        for instance in spec.instances:
            instance.key(os.environ)
        if spec.source is not None:
            spec.weights()
            if find_spec("torch") is None or find_spec("transformers") is None:
                raise ConfigurationError(f"model {model!r}: needs torch and transformers: install ktqueue[models]")


def listen(host: str, port: int, processes: int = 1) -> list[socket.socket]:
    """Sockets that listen there, one for each process: Linux shares out connections among them, evenly.

    Of processes that accept from one socket, whoever happens to wake first takes all that came. Elsewhere there is one
    for all. Raises ConfigurationError if none can listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listeners = [socket.socket(family) for _ in range(processes if sys.platform == "linux" else 1)]
    first, *others = listeners
    try:
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Alone, so that it finds out whether the port is free; then it shares it with the others.
        first.bind((host, port))
        for listener in listeners if others else ():
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for listener in others:
            listener.bind(first.getsockname())
        for listener in listeners:
            listener.listen(BACKLOG)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise ConfigurationError(f"can't listen on {host}:{port}: {error.strerror}") from error
    return listeners


def hold_home(home: Path) -> int:
    """Make the home folder and lock it; the descriptor that holds the lock. Raises ConfigurationError.

    The folder itself is locked, so there is no lock file to leave behind.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(home, os.W_OK | os.X_OK):
            raise PermissionError(13, "is not writable")
        descriptor = os.open(home, os.O_RDONLY)
    except OSError as error:
        raise ConfigurationError(f"KTQ_HOME: {home}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigurationError(f"KTQ_HOME: {home}: another ktqueue is running in this folder") from None
    return descriptor


def migrate(settings: Settings) -> Mapping[str, bool]:
    """Bring the database to the newest schema, in a process of its own, so that this one stays small.

    Returns what was ordered of the worker here, as `ktqueue.roster` takes it.
    """
    command = [sys.executable, "-m", "ktqueue.migrate"]
    environment = {**os.environ, **settings.as_env()}
    done = subprocess.run(  # noqa: S603 - our own module
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        cause_and_message = done.stderr.strip().splitlines()[-2:]
        raise ConfigurationError(f"the database can't be brought up to date: {'; '.join(cause_and_message)}")
    ordered: Mapping[str, bool] = json.loads(done.stdout)
    return ordered


def check_exposure(settings: Settings) -> None:
    """Raises ConfigurationError where keys are asked for and there is none; asked in a process of its own, too."""
    if not settings.keys_are_a_must:
        return
    done = subprocess.run(  # noqa: S603 - our own module
        _python("ktqueue.exposure"),
        env=_environment(settings),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ConfigurationError(done.stderr.strip().splitlines()[-1])


def _redis(settings: Settings) -> Program:
    path = socket_path(settings.home)
    argv = server_command(settings.home)
    return Program("redis", argv, dict(os.environ), serves_others=True, ready=lambda: answers(path))


def _roles(settings: Settings, models: Sequence[str], listeners: Sequence[socket.socket], ear: Ear) -> list[Program]:
    return [
        _api(settings, listeners),
        _light(settings, models, ear),
        _worker("deliver", settings, "deliver"),
        _worker("beat", settings, "beat"),
    ]


def _api(settings: Settings, listeners: Sequence[socket.socket]) -> Program:
    """Its sockets are ours: while no process accepts from one, connections wait instead of being refused."""
    descriptors = [listener.fileno() for listener in listeners]
    return Program(
        "api",
        _python("api", *map(str, descriptors)),
        _environment(settings),
        overlaps=True,
        inherits=descriptors,
        ready=lambda: _api_ready(settings),
    )


def _worker(name: str, settings: Settings, *arguments: str) -> Program:
    return Program(name, _python("worker", *arguments), _environment(settings))


def _light(settings: Settings, models: Sequence[str], ear: Ear) -> Program:
    """It keeps the roster too, which takes what it has anyway."""
    argv = _python("worker", "light", str(ear.mouth), *models)
    return Program("light", argv, _environment(settings), inherits=[ear.mouth])


def _roster(settings: Settings, models: Sequence[str], ear: Ear) -> Program:
    """Who tells which lanes to serve; ``models`` are those to begin with."""
    argv = _python("worker.roster", str(ear.mouth), *models)
    return Program("roster", argv, _environment(settings), inherits=[ear.mouth])


def _lanes(settings: Settings, catalogue: Catalogue, ear: Ear) -> Asked:
    """The lanes' programs, as they are told. One whose model can't run here is left out, and its jobs wait."""

    def asked() -> Sequence[Program] | None:
        models = ear.news()
        if models is None:
            return None
        logger.info("%s serves %s", named(settings.worker_name), ", ".join(models) or "nothing")
        return [_lane(settings, model) for model in models if _can_run(catalogue, model)]

    return asked


def _can_run(catalogue: Catalogue, model: str) -> bool:
    try:
        check_models(catalogue, [model])
    except ConfigurationError as error:
        logger.error("%s", error)  # noqa: TRY400 - the message says it all
        return False
    return True


def _lane(settings: Settings, model: str) -> Program:
    return _worker(f"lane {model}", settings, "lane", model)


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _environment(settings: Settings) -> dict[str, str]:
    return {**os.environ, **settings.as_env()}


def _api_ready(settings: Settings) -> bool:
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=1)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _banner(settings: Settings, catalogue: Catalogue) -> str:
    url = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{settings.port}"
    example = _example(catalogue)
    return (
        f"\nktqueue serves on {url}   (API: {url}/docs)\n"
        f"models: {', '.join(catalogue)}\n"
        f"try:    curl -s {url}/api/v1/jobs -H 'Content-Type: application/json' -H 'Prefer: wait=60' \\\n"
        f"             -d '{example}'\n"
    )


def _example(catalogue: Catalogue) -> str:
    inputs = {
        "generate": '{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}',
        "embed": '{"text": "Why is the sky blue?"}',
        "classify": '{"text": "What a lovely day."}',
        "rerank": '{"query": "sky", "documents": ["blue", "green"]}',
        "echo": '{"say": "hello"}',
    }
    alias, spec = next(iter(catalogue.items()))
    return f'{{"model": "{alias}", "input": {inputs[spec.offers[0]]}}}'


def _log_plainly(settings: Settings) -> None:
    logging.basicConfig(format="%(message)s", level=settings.log_level.upper(), force=True)
