"""Linux's `renameat2`, which Python lacks: renames that exchange two paths or never replace."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_NO_REPLACE, _EXCHANGE = 1, 2
_NOT_SUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_LIBC = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False if the system or file system does not support it.

    Raises:
        OSError: the operation is supported but failed.
    """
    return _rename(one, other, _EXCHANGE)


def rename_to_new(source: Path, target: Path) -> bool:
    """Rename without replacing; False if the system or file system does not support it.

    Raises:
        FileExistsError: the target exists.
        OSError: the operation is supported but failed.
    """
    return _rename(source, target, _NO_REPLACE)


def _rename(source: Path, target: Path, flags: int) -> bool:
    call = getattr(_LIBC, "renameat2", None)
    if call is None:
        return False
    names = os.fsencode(source), os.fsencode(target)
    if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_SUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))
