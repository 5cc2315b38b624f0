"""Images of curves (matplotlib, the plot extra), and whether one can be written."""

from contextlib import contextmanager
from pathlib import Path

from harness import paths
from reference.recipe import InputError


def check_matplotlib(flag: str) -> None:
    """Raise InputError, which names a flag, where matplotlib is not installed."""
    try:
        import matplotlib.backend_bases  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{flag}: expected matplotlib, found none; install maskgolf[plot]"
        ) from error


def check_page(path: Path) -> None:
    """Raise InputError where no page can be written to path."""
    check_matplotlib("-o")
    paths.check_output("-o", path)


def check_image(path: Path) -> None:
    """Raise InputError where no image can be written to path: to be called before a long
    computation.
    """
    check_matplotlib("--plot")
    from matplotlib.backend_bases import FigureCanvasBase

    problem = paths.output_problem(path)
    kinds = ("", *FigureCanvasBase.get_supported_filetypes())
    if not problem and path.suffix[1:].lower() not in kinds:
        problem = repr(path.suffix)
    if problem:
        raise InputError(
            f"--plot {path}: expected an image such as curves.png to write, found {problem}; choose"
            " another path"
        )


@contextmanager
def figure(path: Path):
    """Yield the axes of a plot and write it to path, an image whose suffix names its kind
    (matplotlib, the plot extra).
    """
    check_image(path)
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    image, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    try:
        yield axes
        axes.legend()
        image.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--plot {path}: cannot write the image ({error}); choose another path, such as"
            " curves.png"
        ) from error
    finally:
        pyplot.close(image)
