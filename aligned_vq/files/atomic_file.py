"""Atomic writing of files: at every moment, the path has the old content or the new content.

A file is written in a staging folder next to its target, synced and renamed (see `staging`).
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aligned_vq.files.renameat2 import rename_to_new
from aligned_vq.files.staging import NotWritten, staged, sync

PUBLIC_MODE, SECRET_MODE = 0o644, 0o600


@contextmanager
def new_file(path: str | Path, *, secret: bool = False, replace: bool = True) -> Iterator[Path]:
    """A context with a temporary path of the same name; on exit, that file replaces `path`.

    If the body raises, `path` is unchanged. If `path` is a symbolic link, the file that it points
    to is replaced. A special file such as /dev/stdout cannot be replaced and is written directly.

    Args:
        path: in an existing folder.
        secret: mode 0600 instead of 0644 minus the umask; the body's chmod has no effect.
        replace: False: an existing file or link at `path` is an error, even if it appears while
            the body runs.

    Raises:
        NotWritten: the disk is full, the permission is missing, or the target may not be replaced.
    """
    requested = Path(path)
    if replace and os.path.exists(requested) and not os.path.isfile(requested):
        if os.path.isdir(requested):
            raise NotWritten(errno.EISDIR, os.strerror(errno.EISDIR), str(requested))
        yield requested
        return
    target = Path(os.path.realpath(requested)) if replace else requested.absolute()
    with staged(target) as temporary:
        create_mode = SECRET_MODE if secret else PUBLIC_MODE
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT, create_mode)
        # Read back, as the system subtracts the umask, which can be queried only by changing it.
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        yield temporary
        temporary.chmod(mode)
        sync(temporary)
        if replace:
            temporary.replace(target)
        elif not rename_to_new(temporary, target):
            os.link(temporary, target)  # fails if the target exists, unlike os.rename
        sync(target.parent)


def write_file(
    path: str | Path,
    content: str | bytes | memoryview,
    *,
    secret: bool = False,
    replace: bool = True,
) -> None:
    """Write a file atomically, text as UTF-8; arguments and errors as in `new_file`."""
    with new_file(path, secret=secret, replace=replace) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; errors as in `new_file`."""
    write_file(path, json.dumps(value, indent=1) + "\n")
