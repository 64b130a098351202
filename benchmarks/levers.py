"""What a lever is worth: a base recipe with and without it, over seeds, judged on held-out images.

    python benchmarks/levers.py results/levers/1k.yaml --seeds 3

The file has `overrides`, the base recipe, and `levers`, a name and the overrides added for each. Every run
is kept in outputs/levers and read back: an interrupted series goes on where it stopped. The test set is not read.

Printed and written beside the file, as CSV, is for each lever what it costs, its mean validation loss and accuracy
after the last epoch, and its difference to the base: each image's difference is the mean over the seeds, `se` its
standard error over the images (the trained models held fixed), `better_seeds` how many seeds have the lower loss.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from joblib import Parallel, delayed
from numpy.typing import NDArray
from omegaconf import OmegaConf

import tinysweep
from tinysweep.errors import DivergedError
from tinysweep.files import write_whole
from tinysweep.network import budget

BASE = "base"
IMAGES_AT_ONCE = 500


class Outcome(NamedTuple):
    """A run: the loss of each held-out image and whether it was right, float32 and bool (images,); its cost."""

    losses: NDArray[np.float32]
    right: NDArray[np.bool_]
    params: int
    macs: int
    seconds: float


def train(overrides: list[str], seed: int, kept: Path) -> None:
    """Train a recipe on one thread and keep its outcome in a file; a run that diverges has infinite losses."""
    config = tinysweep.compose(*overrides, f"trainer.seed={seed}", "trainer.threads=1", "trainer.test=false")
    data, began = tinysweep.load_data(config.data), time.perf_counter()
    assert data.validation is not None, "a lever is judged on held-out images: data.validation must not be 0"
    config = budget.resolve(config, data.shape)
    cost = budget.gate(config, data.shape)
    pixels, labels = data.validation.pixels, data.validation.labels
    try:
        model = tinysweep.fit(replace(config), data).model.eval()
        with torch.inference_mode():
            logits = torch.cat([model(part.float()) for part in pixels.split(IMAGES_AT_ONCE)]).float()
        losses, right = F.cross_entropy(logits, labels, reduction="none"), logits.argmax(1) == labels
    except DivergedError:
        losses, right = torch.full((len(labels),), torch.inf), torch.zeros(len(labels), dtype=torch.bool)
    seconds = time.perf_counter() - began
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".part.npz")
    np.savez(partial, losses.numpy(), right.numpy(), cost.params, cost.macs, seconds)
    partial.replace(kept)


def read(kept: Path) -> Outcome:
    with np.load(kept) as file:
        losses, right, *figures = (file[name] for name in file.files)
    params, macs, seconds = (figure.item() for figure in figures)
    return Outcome(losses, right, params, macs, seconds)


def summarise(outcomes: dict[str, list[Outcome]]) -> pd.DataFrame:
    """A row a lever, the base first."""
    base, rows = np.stack([outcome.losses for outcome in outcomes[BASE]]), []
    for name, runs in outcomes.items():
        seeds = min(len(runs), len(base))
        losses = np.stack([outcome.losses for outcome in runs[:seeds]])
        differences = (losses - base[:seeds]).astype(np.float64)  # (seeds, images)
        by_image = differences.mean(0)
        rows.append(
            {
                "lever": name,
                "params": runs[0].params,
                "macs": runs[0].macs,
                "seeds": seeds,
                "loss": losses.mean(),
                "accuracy": 100 * np.mean([outcome.right.mean() for outcome in runs[:seeds]]),
                "difference": by_image.mean(),
                "se": by_image.std(ddof=1) / np.sqrt(len(by_image)),
                "better_seeds": int((differences.mean(1) < 0).sum()),
                "seconds": np.mean([outcome.seconds for outcome in runs[:seeds]]),
            }
        )
    return pd.DataFrame(rows).round({"loss": 5, "accuracy": 3, "difference": 5, "se": 5, "seconds": 1})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="YAML with overrides and levers")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 (default: 3)")
    parser.add_argument(
        "--only", nargs="+", help="names of levers to train; all others are read if they are there"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a thread each (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("outputs/levers"), help="where runs are kept")
    arguments = parser.parse_args()
    written = OmegaConf.to_container(OmegaConf.load(arguments.file))
    assert isinstance(written, dict)
    recipes = {BASE: written["overrides"]}
    recipes |= {name: [*written["overrides"], *added] for name, added in written["levers"].items()}
    folder = arguments.out / arguments.file.stem
    places = {(name, seed): folder / f"{name}-{seed}.npz" for seed in range(arguments.seeds) for name in recipes}
    todo = [
        (recipes[name], seed, kept)
        for (name, seed), kept in places.items()
        if not kept.exists() and (not arguments.only or name in arguments.only)
    ]
    Parallel(n_jobs=arguments.jobs, batch_size=1)(delayed(train)(*one) for one in todo)
    found: dict[str, list[Outcome]] = {}
    for (name, _), kept in places.items():
        if kept.exists():
            found.setdefault(name, []).append(read(kept))
    table = summarise(found)
    write_whole(arguments.file.with_suffix(".csv"), table.to_csv(index=False, lineterminator="\n"))
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
