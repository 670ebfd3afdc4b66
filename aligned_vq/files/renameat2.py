"""Linux's `renameat2`, which Python does not offer: renames that exchange or never replace."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_NO_REPLACE, _EXCHANGE = 1, 2
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_LIBC = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> bool:
    """Give each the other's name, in one step; False where the system or file system cannot.

    Raises:
        OSError: it can, but not these two.
    """
    return _renamed(one, other, _EXCHANGE)


def rename_to_new(source: Path, target: Path) -> bool:
    """Rename where there is nothing yet; False where the system or file system cannot.

    Raises:
        FileExistsError: there is something.
        OSError: it can, but not these two.
    """
    return _renamed(source, target, _NO_REPLACE)


def _renamed(source: Path, target: Path, flags: int) -> bool:
    call = getattr(_LIBC, "renameat2", None)
    if call is None:
        return False
    names = os.fsencode(source), os.fsencode(target)
    if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))
