"""A settings file that is read again while it is used."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from aligned_vq.errors import ConfigError

_log = logging.getLogger(__name__)

T = TypeVar("T")


class RereadFile(Generic[T]):
    """What a file says now, or what it said last where it cannot be used.

    Contents are compared, not times: links that are switched and clocks that jump are seen too.

    Args:
        path: the file.
        what: it should be, for people: "a YAML file of tokens".
        parse: its value from its bytes; raises ConfigError where it cannot be used.

    Raises:
        ConfigError: the file cannot be read or used now.
    """

    def __init__(self, path: Path, what: str, parse: Callable[[bytes], T]) -> None:
        self._path = path
        self._what = what
        self._parse = parse
        self._reading = threading.Lock()
        self._complaint = ""
        self._contents = self._read()
        self.value = parse(self._contents)
        """Replaced as a whole; may be read from any thread."""

    def refresh(self, *, anew: bool = False) -> bool:
        """Read the file again; was there something new? From any thread.

        Args:
            anew: parse it even where it is as it was, as `parse` knows something new.
        """
        with self._reading:
            try:
                found = self._read()
                if found == self._contents and not anew:
                    self._complaint = ""
                    return False
                value = self._parse(found)
            except ConfigError as error:
                if str(error) != self._complaint:  # once, not at every look
                    self._complaint = str(error)
                    _log.warning("what %s said before still holds: %s", self._path, error)
                return False
            self._contents, self.value, self._complaint = found, value, ""
            _log.info("%s was replaced and is in use", self._path)
            return True

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{self._path}: expected {self._what}, got: {error.strerror}; check the path, and "
                "who may read it"
            ) from error
