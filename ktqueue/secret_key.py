"""Where the service's keys come from: KTQ_SECRET_KEY, or a file in its home folder, made by whoever comes first."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp

from ktqueue.errors import ConfigurationError
from ktqueue.settings import Settings
from ktqueue.webhook_signing import Keyring, new_key

FILE = "secret.key"


def load(settings: Settings) -> Keyring:
    """The keys. Processes that start at once with the same home get the same. Raises ConfigurationError."""
    if settings.secret_key:
        return Keyring(settings.secret_key)
    path = settings.home / FILE
    try:
        if not path.exists():
            _make(path)
        return Keyring(_read(path).strip())
    except OSError as error:
        raise ConfigurationError(f"KTQ_SECRET_KEY: not set, and {path} can't be used: {error.strerror}") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _make(path: Path) -> None:
    """Put a new key there, whole, readable by its owner alone, unless another process was faster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600, and not there before
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{new_key()}\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces what another process has put there meanwhile.
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        Path(draft).unlink()
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Make a new name in it outlive a power cut: secrets sealed with a lost key are lost as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> str:
    with path.open(encoding="ascii", errors="replace") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise ConfigurationError("others may read this key: run chmod 600 on it")
        return file.read()
