"""`aligned-vq` that is killed while it writes its N-th line of answers: N and its own arguments."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable

from aligned_vq.cli import main
from aligned_vq.evaluation.vqav2.answer_log import AnswerLog, AnswerRecord

_left = int(sys.argv[1])
_add = AnswerLog.add


def add(self: AnswerLog, answers: Iterable[AnswerRecord]) -> None:
    """One line after the other; the last one stays half written."""
    global _left
    for answer in answers:
        _left -= 1
        if _left == 0:
            self._file.write(b'{"question_id": 1')
            self._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        _add(self, [answer])


if __name__ == "__main__":
    AnswerLog.add = add  # type: ignore[method-assign]
    sys.exit(main(sys.argv[2:]))
