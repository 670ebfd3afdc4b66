"""A settings file that is reloaded while it is used."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from aligned_vq.errors import ConfigError

_log = logging.getLogger(__name__)

T = TypeVar("T")


class ReloadedFile(Generic[T]):
    """The parsed contents of a file, or the previous ones while the file is unusable.

    Contents are compared, not modification times: that also detects switched symbolic links and
    survives clock jumps.

    Args:
        path: the file.
        what: the expected contents, for error messages: "a YAML file of tokens".
        parse: returns the value of the file's bytes, or raises ConfigError.

    Raises:
        ConfigError: the file is unreadable or unusable at the start.
    """

    def __init__(self, path: Path, what: str, parse: Callable[[bytes], T]) -> None:
        self._path = path
        self._what = what
        self._parse = parse
        self._lock = threading.Lock()
        self._last_error = ""
        self._contents = self._read()
        self.value = parse(self._contents)
        """Replaced as a whole, so that any thread may read it without a lock."""

    def reload(self, *, force: bool = False) -> bool:
        """Read the file again, from any thread. True if `value` was replaced.

        Args:
            force: parse unchanged contents too, as what `parse` depends on has changed.
        """
        with self._lock:
            try:
                contents = self._read()
                if contents == self._contents and not force:
                    # The file is usable again, so a later error is logged even if it is the same.
                    self._last_error = ""
                    return False
                value = self._parse(contents)
            except ConfigError as error:
                if str(error) != self._last_error:  # log it once, not at every reload
                    self._last_error = str(error)
                    _log.warning("the previous contents of %s stay in use: %s", self._path, error)
                return False
            # Only after parsing: an unusable file is compared again at the next reload.
            self._contents, self.value, self._last_error = contents, value, ""
            _log.info("%s was replaced and is in use", self._path)
            return True

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{self._path}: expected {self._what}, got: {error.strerror}; check the path and "
                "permissions"
            ) from error
