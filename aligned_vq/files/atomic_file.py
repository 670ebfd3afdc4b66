"""Files written whole: at every moment there is what was before or what is new, never neither.

A file is written beside its place (`staging`), synced and renamed into it; see `atomic_folder`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aligned_vq.files.renameat2 import rename_to_new
from aligned_vq.files.staging import NotWritten, staged, sync

PUBLIC_MODE, SECRET_MODE = 0o644, 0o600


@contextmanager
def new_file(path: str | Path, *, secret: bool = False, replace: bool = True) -> Iterator[Path]:
    """A path to write to, of the same name elsewhere; at the end that file takes its place.

    Nothing changes if the body raises. A link stays one: the file that it points to is replaced.
    What is no regular file, such as /dev/stdout, cannot be replaced and is written to as it is.

    Args:
        path: in a folder that exists.
        secret: readable by its owner only, mode 0600; otherwise 0644 less the umask, whatever
            mode the body gave it.
        replace: False: a file, or a link, that is there is an error, even if it came meanwhile.

    Raises:
        NotWritten: there is no room, no right to write there, or something not to be replaced.
    """
    given = Path(path)
    if replace and os.path.exists(given) and not os.path.isfile(given):
        if os.path.isdir(given):
            raise NotWritten(errno.EISDIR, os.strerror(errno.EISDIR), str(given))
        yield given
        return
    target = Path(os.path.realpath(given)) if replace else given.absolute()
    with staged(target) as part:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT, SECRET_MODE if secret else PUBLIC_MODE)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)  # the umask was taken off by the system
        os.close(handle)
        yield part
        part.chmod(mode)
        sync(part)
        if replace:
            part.replace(target)
        elif not rename_to_new(part, target):
            os.link(part, target)
        sync(target.parent)


def write_file(
    path: str | Path,
    content: str | bytes | memoryview,
    *,
    secret: bool = False,
    replace: bool = True,
) -> None:
    """Write all of a file's content, text as UTF-8; arguments and errors as of `new_file`."""
    with new_file(path, secret=secret, replace=replace) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
