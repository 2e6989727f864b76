"""What a person sees while a pipeline runs: one line a stage, the running ones live."""

import contextlib
import time
from typing import Any

from mlloop.core.formatting import duration
from mlloop.pipeline.runner import Event


@contextlib.contextmanager
def silent():
    """Watch without a word."""
    yield lambda event: None


class Progress:
    """Context manager that yields the `watch` function of a run; live on a terminal, a line a stage elsewhere."""

    def __init__(self):
        from rich.console import Console

        self.console = Console(highlight=False, stderr=False, soft_wrap=True)
        self.running: dict[str, Event] = {}
        self.began: dict[str, float] = {}
        self.live: Any = None

    def __enter__(self):
        if self.console.is_terminal and self.console.is_interactive:
            from rich.live import Live

            self.live = Live(get_renderable=self._lines, console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self.watch

    def __exit__(self, *exception) -> None:
        if self.live:
            self.live.stop()

    def watch(self, event: Event) -> None:
        """Take one event of the run."""
        if event.kind == "start":
            self.began[event.stage] = time.monotonic()
        if event.kind in ("start", "cell"):
            self.running[event.stage] = event
            return
        if event.kind == "revision":
            self.console.print(f"  {event.problem}: {event.text}")
            return
        if event.kind == "verdict":
            self.console.print(
                f"  {event.problem:<12} [bold]{event.stage.removesuffix('_gate')} gate: {event.text}[/bold]"
            )
            return
        self.running.pop(event.stage, None)
        if event.kind == "done":
            rows = f"{event.rows:>12,} rows" if event.rows is not None else ""
            self.console.print(
                f"[green]✓[/green] {event.problem:<12} {event.stage:<16} {duration(event.seconds):>8} {rows}"
            )
        elif event.kind == "failed":
            self.console.print(
                f"[red]✗[/red] {event.problem:<12} {event.stage:<16} {duration(event.seconds):>8} failed"
            )

    def _lines(self):
        from rich.text import Text

        lines = []
        for stage, event in list(self.running.items()):
            elapsed = time.monotonic() - self.began[stage]
            where = f"cell {event.cell}/{event.cells}" if event.cells else "starting"
            lines.append(f"▸ {event.problem:<12} {stage:<16} {duration(elapsed):>8}  {where}")
        return Text("\n".join(lines))
