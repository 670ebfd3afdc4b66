"""A server process that logs its arguments."""

from __future__ import annotations

import signal
import sys

sys.stderr.write(" ".join(sys.argv[1:]) + "\n")
sys.stdout.write("serving on 127.0.0.1:1\n")
sys.stdout.flush()
signal.pause()
