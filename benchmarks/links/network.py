"""The network of a measurement: namespaces with a shaped link, or 127.0.0.1 with a relay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Self

from benchmarks.harness.processes import ServerProcess
from benchmarks.links.namespaces import CLOUD_ADDRESS, Namespaces, NotPermitted
from benchmarks.links.profiles import Link


class RelayProcess(ServerProcess):
    """`benchmarks.links.relay` to a target; with `any_rate` it does not limit the bandwidth."""

    def __init__(self, target: str, link: Link, any_rate: bool, seed: int) -> None:
        options = [f"--{name}={getattr(link, name)}" for name in ("up_kbit", "down_kbit")]
        options += [f"--{name}={getattr(link, name)}" for name in ("delay_ms", "jitter_ms", "loss")]
        super().__init__(
            "benchmarks.links.relay",
            *(target, *options, f"--seed={seed}", *(["--any_rate"] if any_rate else [])),
        )


class Network:
    """An edge side, a cloud side and a link between them that can be changed; a context manager.

    Args:
        namespaces: use network namespaces. Without them, or where they are not permitted, both
            sides are 127.0.0.1 and the relay emulates the link.
        seed: for jitter and loss in user space.
    """

    def __init__(self, namespaces: bool = True, seed: int = 0) -> None:
        self._use_namespaces = namespaces
        self._seed = seed
        self._pair: Namespaces | None = None
        self._stack = ExitStack()
        self.why_not = "not asked for"
        """Why there are no namespaces."""

    def __enter__(self) -> Self:
        if self._use_namespaces:
            try:
                self._pair = self._stack.enter_context(Namespaces())
            except NotPermitted as error:
                self.why_not = str(error)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def shaped_by(self) -> str:
        """What the kernel and what user space emulates, for reports."""
        if self._pair is None:
            return f"user space: bandwidth, delay, jitter, loss (namespaces: {self.why_not})"
        if self._pair.netem:
            return "namespaces, kernel: bandwidth (tbf), delay, jitter, loss (netem)"
        return "namespaces, kernel: bandwidth (tbf); user space: delay, jitter, loss"

    @property
    def edge_command(self) -> tuple[str, ...]:
        """The prefix of a command line that runs on the edge side."""
        return () if self._pair is None else self._pair.inside(self._pair.edge)

    @property
    def cloud_command(self) -> tuple[str, ...]:
        """The prefix of a command line that runs on the cloud side."""
        return () if self._pair is None else self._pair.inside(self._pair.cloud)

    @property
    def cloud_host(self) -> str:
        """The address at which a cloud process listens; unreachable from outside the machine."""
        return "127.0.0.1" if self._pair is None else CLOUD_ADDRESS

    @contextmanager
    def link(self, link: Link, *targets: str) -> Iterator[list[str]]:
        """Shape the link; yields the addresses at which the edge reaches the targets through it."""
        if self._pair is not None:
            delay_ms = self._pair.shape(link)
            if self._pair.netem:
                # The kernel emulates all of the link.
                yield list(targets)
                return
            link = replace(link, delay_ms=delay_ms)
        with ExitStack() as stack:
            # Relays use two seeds each, one for each direction.
            relays = [
                RelayProcess(target, link, self._pair is not None, self._seed + 2 * number)
                for number, target in enumerate(targets)
            ]
            # On the edge's side, so that what they forward passes the shaped link.
            yield [
                stack.enter_context(relay.launched_by(*self.edge_command)).target
                for relay in relays
            ]
