"""Show the progress of a build: a live line per container on a terminal, plain lines elsewhere."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from gemma3build.util.text import megabytes

if TYPE_CHECKING:  # verifying shows a bar, and must load no engine
    from gemma3build.engine.cache import CacheEntry
    from gemma3build.plan.graph import Step


class Progress:
    """Reports the steps of a build on a console; a context manager."""

    def __init__(self, console: Console) -> None:
        """Report on ``console``."""
        self._console, self._total = console, 0
        self._lock = threading.Lock()
        self._done = 0
        self._running: dict[str, tuple[float, str]] = {}
        self._live = Live(
            console=console, get_renderable=self._table, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Self:
        """Start the live display, on a terminal."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the live display."""
        self._live.stop()

    def expect(self, total: int) -> None:
        """Set the number of steps."""
        self._total = total

    def say(self, text: str) -> None:
        """Show a line."""
        self._console.print(f"  {text}", style="dim", soft_wrap=True)

    def started(self, step: "Step") -> None:
        """Show that a step runs."""
        with self._lock:
            self._running[step.name] = (time.monotonic(), "")
        if not self._console.is_terminal:
            self._console.print(f"[{self._done + 1}/{self._total}] {step.name} …")

    def running(self, step: "Step", memory: int, written: int) -> None:
        """Update the memory of a step, or the size of its download."""
        size = megabytes(memory)
        if step.network:
            size = f"{megabytes(written)} of {megabytes(step.disk)}"
        with self._lock:
            started, _ = self._running[step.name]
            self._running[step.name] = (started, size)

    def failed(self, step: "Step") -> None:
        """Show that a step failed."""
        with self._lock:
            self._running.pop(step.name, None)
        self._console.print(f"✗ {step.name}", style="red")

    def finished(self, step: "Step", entry: "CacheEntry", *, cached: bool) -> None:
        """Show that a step has a result."""
        with self._lock:
            self._done += 1
            number = self._done
            self._running.pop(step.name, None)
        took = f"{entry.seconds:.1f} s, {megabytes(entry.peak_memory)}"
        note = f"{step.name}  {'kept from before' if cached else took}"
        place = (f"[{number}/{self._total}] ", "dim")
        self._console.print(Text.assemble(place, ("✓ ", "green"), note))

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        with self._lock:
            for name, (started, size) in self._running.items():
                table.add_row(f"⏳ {name}", f"{now - started:.0f} s", size)
        return table


@contextmanager
def reading(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how much of ``total`` bytes is read; yields the function that advances it."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=total)
        yield lambda size: bar.advance(task, size)
