"""What a change of the code's shape must leave as it is: figures, refusals and help of the commands.

    python tests/golden.py write [NAME...]   records the parts (all, if none is named) in tests/golden/NAME.json
    python tests/golden.py check [NAME...]   does the same again and compares; status 1 and a diff if they differ

Commands are found through pyproject.toml's [project.scripts], so that it doesn't matter where their modules lie.
Each runs in a fork of this process, on one core, in a temporary folder. Figures are compared to the last bit,
and only on a machine like the one that recorded them: on another, a few bits may prune another trial.
"""

import contextlib
import csv
import difflib
import gc
import hashlib
import importlib
import json
import math
import os
import pkgutil
import platform
import shlex
import sys
import tempfile
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).resolve().parent
PROJECT: dict[str, Any] = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
SCRIPTS: dict[str, str] = PROJECT["scripts"]
# Columns and keys that differ from run to run or from version to version.
LEFT_OUT = {"seconds", "train_seconds", "started", "finished", "folder", "versions", "python", "git_commit"}
FIGURES = ("study", "final", "runs")  # the parts that a few bits of arithmetic decide
LONG = 20  # a list with more items, such as the images that a model mistakes, is kept as their number and a digest

WORDS: dict[str, Any] = tomllib.loads((TESTS / "golden/commands.toml").read_text())
RUNS: dict[str, str] = {name: f"{WORDS['mnist']} {words}" for name, words in WORDS["runs"].items()}


class Ended(NamedTuple):
    status: int
    out: str
    err: str


def call(place: Path, line: str) -> Ended:
    """Run a command line in a fork of this process."""
    words = shlex.split(line)
    out, err = place.with_suffix(".out"), place.with_suffix(".err")
    sys.stdout.flush()
    if not (child := os.fork()):
        status: Any = 1
        try:
            os.chdir(place)
            for number, file in ((1, out), (2, err)):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = words
            module, _, function = SCRIPTS[words[0]].partition(":")
            status = getattr(importlib.import_module(module), function)() or 0
        except SystemExit as ending:
            status = ending.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status if isinstance(status, int) else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(status, _placed(out.read_text(), place), _placed(err.read_text(), place))


def done(place: Path, line: str) -> str:
    """What a command prints that must succeed."""
    ended = call(place, line)
    if ended.status:
        raise SystemExit(f"{line}\nended with status {ended.status}: {ended.out}{ended.err}")
    return ended.out


def _placed(text: str, place: Path) -> str:
    """A text without the paths of this machine."""
    data = os.environ.get("TINYSWEEP_DATA") or "~/.cache/tinysweep"
    paths = {
        str(place): "PLACE",
        str(Path(data).expanduser()): "DATA",
        data: "DATA",
        str(TESTS.parent): "REPOSITORY",
    }
    for path, name in paths.items():
        text = text.replace(path, name)
    return text


def rows(file: Path, place: Path) -> list[dict[str, Any]]:
    """A CSV's rows, without what is left out."""
    with file.open(newline="") as stream:
        read = list(csv.DictReader(stream))
    return [
        {key: _number(_placed(text, place)) for key, text in row.items() if key not in LEFT_OUT} for row in read
    ]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text


def document(file: Path, place: Path) -> Any:
    """A JSON file without what is left out."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: kept(below) for key, below in value.items() if key not in LEFT_OUT}
        if isinstance(value, list) and len(value) > LONG:
            return {"items": len(value), "digest": digest(json.dumps(value))}
        return [kept(below) for below in value] if isinstance(value, list) else value

    return kept(json.loads(_placed(file.read_text(), place)))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def images(place: Path) -> None:
    """Pictures of three classes, noise with a bright bar whose row tells the class, to train on and to test; and
    pictures that show no digit."""
    import numpy as np  # noqa: PLC0415 the test imports this module for the names of its parts only
    from PIL import Image  # noqa: PLC0415

    generator = np.random.default_rng(0)
    for number in range(120):
        pixels = generator.integers(0, 60, (12, 12), dtype=np.uint8)
        pixels[4 * (number % 3) : 4 * (number % 3) + 3] = generator.integers(60, 255, dtype=np.uint8)
        file = place / "images" / ("test" if number >= 90 else "train") / "abc"[number % 3] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    Image.new("L", (40, 40), 255).save(place / "blank.png")
    Image.fromarray(generator.integers(0, 255, (60, 60), dtype=np.uint8)).save(place / "noise.png")
    (place / "text.png").write_text("no picture")


def swept(place: Path, name: str) -> None:
    done(place, f"tinysweep -m hydra.sweeper.study_name={name} {WORDS['mnist']} {WORDS['studies'][name]}")


def study(place: Path) -> Any:
    """Trials that are complete, pruned, over budget, invalid; drawn at random, by TPE, from a grid; in a table."""
    found: dict[str, Any] = {}
    for name in WORDS["studies"]:
        swept(place, name)
        folder = place / "outputs/sweeps" / name
        numbers = sorted(int(trial.name) for trial in (folder / "trials").iterdir())
        records = {str(number): document(folder / f"trials/{number}/record.json", place) for number in numbers}
        winner = _placed((folder / "experiment/winner.yaml").read_text(), place).splitlines()
        found[name] = {"trials": rows(folder / "trials.csv", place), "records": records, "winner": winner}
    line = f"tinysweep-compare outputs/sweeps {WORDS['compare']}"
    return found | {
        "compare": [text for text in done(place, line).splitlines() if not text.startswith("  seconds")],
        "merged": rows(place / "outputs/compare.csv", place),
    }


def final(place: Path) -> Any:
    """The two best of the study drawn at random, the winner and the baseline on the test set."""
    swept(place, "random")
    done(place, f"tinysweep-final outputs/sweeps/random {WORDS['final']}")
    folder = place / "outputs/sweeps/random/final"
    best = _placed((folder / "experiment/best.yaml").read_text(), place).splitlines()
    predicted = {"digest": digest((folder / "predictions.csv").read_text())}
    return {"json": document(folder / "final.json", place), "csv": rows(folder / "final.csv", place),
            "predictions": predicted, "best": best}  # fmt: skip


def runs(place: Path) -> Any:
    """Single runs of every family, dropout, optimizer; what two of their models see in pictures."""
    images(place)
    found: dict[str, Any] = {}
    for name, words in RUNS.items():
        done(place, f"tinysweep name={name} hydra.run.dir=runs/{name} {words}")
        folder = place / "runs" / name
        found[name] = {
            "record": document(folder / "record.json", place),
            "history": rows(folder / "history.csv", place),
        }
        if (predicted := folder / "test_predictions.csv").exists():
            found[name]["predictions"] = {"digest": digest(predicted.read_text())}
    seen = done(place, "tinysweep-predict runs/images images/test/a images/test/b --json").splitlines()
    return found | {"predict": [json.loads(line) for line in seen]}


def refusals(place: Path) -> Any:
    """What refused commands print, and their exit status; the lines are in tests/golden/refused.txt."""
    images(place)
    for made in ("odd/train/a", "odd/b", "empty"):
        (place / made).mkdir(parents=True)
    (place / "not.csv").write_text("a,b\n1,2\n")
    (place / "text.db").write_text("no database")
    (place / "sweeps").mkdir()
    (place / "sweeps/wrong.yaml").write_text("hydra: {sweeper: {params: {model.widht: 'choice(1,2)'}}}\n")
    done(place, f"tinysweep name=r hydra.run.dir=runs/r {RUNS['images']}")
    done(place, f"tinysweep name=m hydra.run.dir=runs/m {RUNS['plain']}")
    done(place, f"tinysweep -m hydra.sweeper.study_name=s hydra/launcher=basic {RUNS['images']} model.width=3,4")
    lines = (TESTS / "golden/refused.txt").read_text().splitlines()
    found = {line: call(place, line.replace("IMAGES", RUNS["images"])) for line in lines}
    if accepted := [line for line, ended in found.items() if not ended.status]:
        raise SystemExit("these were to be refused:\n" + "\n".join(accepted))
    return {
        line: {"status": e.status, "out": e.out.splitlines(), "err": e.err.splitlines()}
        for line, e in found.items()
    }


def help_(place: Path) -> Any:
    """What --help prints; the default configuration, the recipes' and the layers of two networks."""
    lines = [f"{script} --help" for script in SCRIPTS]
    names = ("era_seed", "fast", "thorough", "best_20k")
    lines += ["tinysweep --cfg job", *(f"tinysweep experiment={name} --cfg job" for name in names)]
    lines += [
        "tinysweep-inspect",
        "tinysweep-inspect model=era_seed",
        "tinysweep-inspect model=separable budget.params=5000",
    ]
    return {line: done(place, line).splitlines() for line in lines}


PARTS: dict[str, Callable[[Path], Any]] = {
    "study": study, "final": final, "runs": runs, "refusals": refusals, "help": help_
}  # fmt: skip


def machine() -> dict[str, Any]:
    """What decides the last bits of figures, and the form of argparse's texts."""
    import torch  # noqa: PLC0415

    bf16 = [name for name in ("avx512_bf16", "amx_bf16") if torch.cpu.get_capabilities().get(name)]
    python = ".".join(platform.python_version_tuple()[:2])
    return {"cpu": torch.backends.cpu.get_cpu_capability(), "bf16": bf16, "machine": platform.machine(),
            "torch": torch.__version__, "python": python}  # fmt: skip


def differences(expected: Any, found: Any) -> list[str]:
    """The lines that tell how a part differs; none if it doesn't."""
    before, now = (json.dumps(each["found"], indent=1).splitlines() for each in (expected, found))
    return list(difflib.unified_diff(before, now, "recorded", "now", lineterm="", n=4))


def install(place: Path) -> None:
    """Let this process have the package of this checkout and its entry points, whatever is installed."""
    made = place / f"tinysweep-{PROJECT['version']}.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(f"Metadata-Version: 2.4\nName: tinysweep\nVersion: {PROJECT['version']}\n")
    groups = {"console_scripts": SCRIPTS} | PROJECT["entry-points"]
    points = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in each.items()) for group, each in groups.items()]
    (made / "entry_points.txt").write_text("\n".join(points) + "\n")
    sys.path[:0] = [str(TESTS.parent / "src"), str(place)]


def import_all() -> None:
    """Import what the commands may need, once and not in each fork."""
    for name in ("hydra_plugins", "tinysweep"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                with contextlib.suppress(ImportError):  # of a package that isn't installed
                    importlib.import_module(module.name)
    gc.freeze()


def main(task: str, names: list[str]) -> int:
    if task not in ("write", "check") or set(names) - set(PARTS):
        print(f"{__doc__}\nparts: {', '.join(PARTS)}")
        return 2
    if hasattr(os, "sched_setaffinity"):  # the number of cores decides on threads, and these on the last bits
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ.update(COLUMNS="100", LINES="40", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    os.environ.pop("HYDRA_FULL_ERROR", None)
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder))
        import_all()
        for name in names or PARTS:
            place = Path(folder).resolve() / name
            file = TESTS / "golden" / f"{name}.json"
            if task == "check" and name in FIGURES and json.loads(file.read_text())["machine"] != machine():
                print(f"{name}: recorded on another kind of machine, so not compared")
                continue
            place.mkdir()
            part = {"machine": machine(), "found": PARTS[name](place)}
            if task == "write":
                file.write_text(json.dumps(part, indent=1) + "\n")
            elif lines := differences(json.loads(file.read_text()), part):
                print(f"{name}: not as it was recorded", *lines, sep="\n")
                status = 1
            else:
                print(f"{name}: as it was recorded")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if sys.argv[1:] else "", sys.argv[2:]))
