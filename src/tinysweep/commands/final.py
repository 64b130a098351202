"""The command `tinysweep-final`: the best of a study on several seeds, then the winner on the test set.

A search keeps the best of many single runs, and the best of many is partly the luckiest; so its figure says too
much of the winner. Here the best few are trained again on several seeds and judged by their means on the
validation images. Only then the winner, and what it is compared with, are trained on all training images and
tested, each model once.
"""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from tinysweep.errors import StudyError
from tinysweep.final.settings import FinalConfig, read_words
from tinysweep.terminal import outlasting_readers, program

EXAMPLES = """examples:
  tinysweep-final outputs/sweeps/quick                        the 3 best on 5 seeds, the winner against era_seed
  tinysweep-final outputs/sweeps/quick top=5 seeds=10 jobs=2
  tinysweep-final outputs/sweeps/quick baseline=thorough      against another recipe of conf/experiment
  tinysweep-final outputs/sweeps/quick trainer.epochs=40      a setting of the runs, on top of the study's retrain

Run the same command again after an interruption: what has finished is not trained again."""


def hold(options: argparse.Namespace) -> None:
    """Hold the final of the study that the command line names."""
    settings, overrides = read_words(options.settings)
    from filelock import FileLock, Timeout  # noqa: PLC0415 torch and Optuna are imported for good arguments alone

    from tinysweep.final.candidates import FinalPlan  # noqa: PLC0415
    from tinysweep.final.hold import hold_final  # noqa: PLC0415

    plan = FinalPlan(options.study, settings, overrides)
    try:
        plan.folder.mkdir(exist_ok=True)
        with FileLock(plan.folder / ".lock").acquire(blocking=False), outlasting_readers():
            hold_final(plan)
    except Timeout:
        raise StudyError(
            f"another tinysweep-final is at work in {plan.folder}; let it finish, or stop it, and try again"
        ) from None
    except OSError as error:
        raise StudyError(
            f"{plan.folder} can't be written: {error.strerror or error}; what had finished is kept"
        ) from error


def build_parser() -> argparse.ArgumentParser:
    rows = [
        f"  {spec.name + '=' + _default_text(spec):<24} {spec.metadata['meaning']}" for spec in fields(FinalConfig)
    ]
    parser = argparse.ArgumentParser(
        prog="tinysweep-final",
        description=__doc__.partition("\n\n")[2],
        epilog="\n".join(["settings, with what they are if not given:", *rows, "", EXAMPLES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "study", type=Path, metavar="STUDY", help="folder of a study, such as outputs/sweeps/quick"
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of the final, or of its runs")
    return parser


def _default_text(spec: Any) -> str:
    value = getattr(FinalConfig(), spec.name)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def main() -> None:
    """Entry point of the console script."""
    program(build_parser(), hold)


if __name__ == "__main__":
    main()
