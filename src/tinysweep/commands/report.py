"""The command `tinysweep-report`: a study as one page to decide by, and its main figures as pictures."""

import argparse
from pathlib import Path

from tinysweep.errors import StudyError, require_package
from tinysweep.terminal import program

EXAMPLES = """examples:
  tinysweep-report outputs/sweeps/quick
  tinysweep-report outputs/sweeps/quick --storage postgresql://host/studies

The page, report.html in the study's folder, needs no network and no other file. It can be made while the study is
running, and after tinysweep-final it also shows the final. The pictures lie in the folder figures beside it."""
PACKAGES = {"jinja2": "jinja2", "plotly": "plotly", "sklearn": "scikit-learn"}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="tinysweep-report",
        description="Write a study as one self-contained HTML page, and its main figures as PNG files.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("study", type=Path, metavar="STUDY_FOLDER", help="such as outputs/sweeps/quick")
    made.add_argument(
        "--storage",
        help="where the study's trials are, if not in its folder: as hydra.sweeper.storage. Without it and "
        "without a study.db, the page is made of trials.csv",
    )
    made.add_argument(
        "--study", metavar="NAME", dest="name", help="the study of that name, where that isn't its folder's"
    )
    return made


def report(options: argparse.Namespace) -> None:
    """Write the page and the pictures of a study."""
    for module, package in PACKAGES.items():
        require_package("tinysweep-report", package, "report", module)
    import optuna  # noqa: PLC0415 slow imports only once the packages are known to be there

    from tinysweep.report.page import write_report  # noqa: PLC0415
    from tinysweep.results.view import open_view  # noqa: PLC0415

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    view = open_view(options.study, options.storage, options.name)
    try:
        page, pictures = write_report(view)
    except OSError as error:
        raise StudyError(
            f"{error.filename or options.study} can't be written: {error.strerror or error}; free its place, or "
            "copy the study's folder to where you may write"
        ) from error
    print(f"report    {page}\npictures  {pictures[0].parent}: {', '.join(path.name for path in pictures)}")


def main() -> None:
    """Entry point of the console script."""
    program(parser(), report)


if __name__ == "__main__":
    main()
