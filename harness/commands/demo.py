"""maskgolf demo."""

from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import tyro

from harness import api, ranks
from harness.commands.flags import Fields, Flat, Json
from harness.corpus.sources import Source
from harness.records import run_directory
from reference.recipe import DEMO, Recipe, check

# Steps of the preset's length learn the text that ships with Python by heart
EMBEDDED = {"iterations": 225, "warmdown": 75}
PROMPT = "The"


def recipe_for(recipe: Recipe, source: Source) -> Recipe:
    """Return the recipe; where the demo preset's own length would meet the embedded text, with the
    steps of EMBEDDED.
    """
    own = all(getattr(recipe.training, name) == getattr(DEMO.training, name) for name in EMBEDDED)
    if source.data or source.text or recipe.preset != DEMO.preset or not own:
        return recipe
    return replace(recipe, training=replace(recipe.training, **EMBEDDED))


def write_page(run: Path, device: str) -> Path | None:
    """Write the page of a finished run into its directory; None where matplotlib is missing."""
    if not find_spec("matplotlib"):
        return None
    from harness.page import write

    return write.write((run,), run / "report.html", device)


@dataclass(frozen=True)
class Demo:
    """Train the demo preset, ship it and compare its bits per byte with zlib, bz2 and lzma on the
    same text; report.html in the run directory shows it in figures. On the text that ships with
    Python the demo preset trains 225 steps, unless --training.iterations or --training.warmdown say
    otherwise.

    Example: maskgolf demo --data ../shared/fineweb
    """

    recipe: Annotated[Fields, Flat]
    source: Annotated[Source, Flat] = field(default_factory=Source)
    out: Annotated[Path, tyro.conf.arg(metavar="DIR", aliases=["-o"])] = Path("runs/demo")
    """Run directory; a run that is there is replaced."""
    device: str = "cpu"
    """cpu or cuda."""
    compiled: bool = True
    """torch.compile the step and the scoring."""
    preflight: bool = True
    """Check parity with the specification on the device before the first step."""
    json: Json = None
    """Write the summary to PATH, - for stdout."""

    def run(self):
        """Return the summary."""
        recipe = recipe_for(self.recipe, self.source)
        check(recipe)
        if ranks.rank() == 0:
            run_directory.check(self.out, False, True, recipe)
        from harness import runs
        from harness.display import report

        run = api.train(
            recipe,
            **vars(self.source),
            out=self.out,
            overwrite=True,
            device=self.device,
            compiled=self.compiled,
            preflight=self.preflight,
            scoring=runs.SCORING,
            sequences=runs.DEMO_WINDOWS,
        )
        if not run:  # of another rank
            return None, None
        page = write_page(self.out, self.device)

        def show() -> None:
            run.show()
            report.page(page)
            report.next_command("sample", str(self.out), "--prompt", PROMPT)

        return run.json, show
