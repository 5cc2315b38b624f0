"""maskgolf watch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from harness.commands.flags import Json
from harness.errors import Stopped
from harness.records import watch


@dataclass(frozen=True)
class Watch:
    """Show a run in progress until it ends: step, loss and its curve, gradient norm, tokens per
    second, time left. In a pipe a line for each new record. Ctrl-C leaves the run alone.

    Example: maskgolf watch runs/demo
    """

    # Run directory.
    run_: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]]
    # Show the state as it is now, and end.
    once: bool = False
    # Write the last state to PATH, - for stdout alone.
    json: Json = None

    def check(self) -> None:
        """Raise InputError unless a run began there; loads no torch."""
        watch.check(self.run_)

    def run(self):
        """Return the last state."""
        if self.once:
            state = watch.read(self.run_)
            return state.plain(), lambda: watch.show(state)
        try:
            state = watch.follow(self.run_, quiet=self.json == "-")
        except KeyboardInterrupt:
            state = watch.read(self.run_)
            message = "stopped watching; the run is left alone"
            raise Stopped(message, state.plain(), lambda: None) from None
        return state.plain(), lambda: None
