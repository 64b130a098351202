"""A regression of the table of table.py, on which samplers can be replayed that propose what the table lacks (a
surrogate benchmark, Siems et al., 2020, arXiv:2008.09777)."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from scipy.stats import spearmanr
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.model_selection import KFold, cross_val_predict

from tinysweep.search.space import read_space

Array = np.ndarray[Any, np.dtype[np.float64]]
LOSSES = ("1", "3", "7 of 9", "best of 7 of 9", "9")  # whole trainings, and the middle of the longest
LAST = len(LOSSES) - 1
COLUMN = {1: 0, 3: 1, 9: LAST}  # by epochs of a whole training
LOGARITHMIC = ("optimizer.lr", "optimizer.weight_decay")
PLAIN = ("model.padding", "model.stem_kernel", "model.stem_fraction", "model.growth", "model.bottleneck",
         "augmentation.rotation_degrees", "augmentation.shift_fraction", "augmentation.scale_fraction",
         "augmentation.shear_degrees", "augmentation.elastic_pixels")  # fmt: skip
POOL = 5000


def features(values: Mapping[Any, Any]) -> list[float]:
    """What the regression sees of the drawn values."""
    depth = json.loads(values["model.depth"])
    named = [values["model.family"] == "residual", values["model.head"] == "gap"]
    logs = [np.log(values[key]) for key in LOGARITHMIC]
    return [float(each) for each in (*named, len(depth), sum(depth), depth[0], *logs, *(values[k] for k in PLAIN))]


def draw(space: Mapping[str, BaseDistribution], random: np.random.Generator) -> dict[str, Any]:
    """Values as a random search draws them."""
    values: dict[str, Any] = {}
    for key, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            values[key] = distribution.choices[random.integers(len(distribution.choices))]
        else:
            assert isinstance(distribution, FloatDistribution)
            low, high = distribution.low, distribution.high
            log = distribution.log
            values[key] = np.exp(random.uniform(np.log(low), np.log(high))) if log else random.uniform(low, high)
    return values


def losses(rows: pd.DataFrame) -> pd.DataFrame:
    """Logarithms of LOSSES, a row a configuration and seed."""
    whole = rows[rows.epoch == rows.epochs].pivot(
        index=["configuration", "seed"], columns="epochs", values="validation_loss"
    )
    middle = rows[(rows.epochs == 9) & (rows.epoch <= 7)].sort_values("epoch")
    by = middle.groupby(["configuration", "seed"]).validation_loss
    found = pd.DataFrame(
        {"1": whole[1], "3": whole[3], "7 of 9": by.last(), "best of 7 of 9": by.min(), "9": whole[9]}
    )
    return found[list(LOSSES)].transform("log")


class Surrogate:
    """Gaussian processes of the logarithms of losses and MACs by what was drawn. What they can't foretell of a
    configuration is drawn with it, jointly over the rungs, from the cross-validated residuals of the table's,
    shrunk by what of it is noise; the noise of a training is drawn from the differences of two seeds.

    `rough` scales what can't be foretold: 0 makes a smooth world, in which a sampler can learn all that there is;
    `noise` scales the luck of the seeds.
    """

    def __init__(self, folder: Path, seed: int = 0, rough: float = 1.0, noise: float = 1.0) -> None:
        random = np.random.default_rng(seed)
        self.space = read_space(dict(OmegaConf.load(folder / "space.yaml").params), []).searched
        listed = pd.read_csv(folder / "configurations.csv", index_col="configuration")
        seeds = losses(pd.read_csv(folder / "epochs.csv"))
        known = seeds.groupby("configuration").mean().where(seeds.notna().groupby("configuration").all()).dropna()
        known["macs"] = np.log(listed.macs)
        plain = np.array([features(values) for values in listed.loc[known.index].to_dict("records")])
        self.center, self.spread = plain.mean(axis=0), plain.std(axis=0)
        inputs, targets = (plain - self.center) / self.spread, known.to_numpy()
        kernel = ConstantKernel() * RBF(5.0, (0.5, 100.0)) + WhiteKernel(0.3, (1e-4, 2.0))
        self.inputs, self.fitted, guesses = inputs, list[tuple[float, float, Array]](), []
        for target in targets.T:
            model = GaussianProcessRegressor(kernel, normalize_y=True)
            folds = KFold(10, shuffle=True, random_state=0)
            guesses.append(cross_val_predict(model, inputs, target, cv=folds))
            fitted = model.fit(inputs, target).kernel_.get_params()
            weights = fitted["k1__k1__constant_value"] * target.std() * model.alpha_
            self.fitted.append((target.mean(), fitted["k1__k2__length_scale"], weights))
        residuals = targets - np.transpose(guesses)
        wide = seeds.loc[known.index].unstack("seed")
        noises = np.array([(wide[key][0] - wide[key][1]) / np.sqrt(2) for key in LOSSES]).T
        luck, left = (noises**2).mean(axis=0), (residuals[:, :-1] ** 2).mean(axis=0)
        kept = np.sqrt(np.clip(1 - luck / 2 / left, 0.0, 1.0))
        signed = noise * np.concatenate([noises, -noises])  # which seed is the better one is a matter of luck
        self.luck: list[list[float]] = np.exp(signed).tolist()
        self.rough = rough * kept * residuals[:, :-1]
        self.quality = pd.DataFrame({
            "figure": known.columns,
            "r2": 1 - (residuals**2).mean(axis=0) / targets.var(axis=0),
            "rank_correlation": [float(spearmanr(*both)[0]) for both in zip(targets.T, guesses, strict=True)],
            "sd_of_seed": [*np.sqrt(luck), 0.0],
            "sd_not_foretold": [*(kept * np.sqrt(left)), 0.0],
        })  # fmt: skip
        pool = self.foretell([draw(self.space, random) for _ in range(POOL)])
        pool[:, :-1] += self.rough[random.integers(len(self.rough), size=POOL)]
        self.pool: list[list[float]] = np.exp(pool).tolist()

    def foretell(self, drawn: Sequence[Mapping[str, Any]]) -> Array:
        """Logarithms of losses and MACs, (configurations, figures)."""
        inputs = (np.array([features(values) for values in drawn]) - self.center) / self.spread
        apart = ((inputs[:, None] - self.inputs) ** 2).sum(axis=-1)
        return np.transpose(
            [mean + np.exp(-apart / 2 / length**2) @ weights for mean, length, weights in self.fitted]
        )

    @property
    def best_of_hundred(self) -> float:
        """The loss after 9 epochs that the best of 100 random configurations has, in the median."""
        return float(np.quantile([each[LAST] for each in self.pool], 1 - 0.5 ** (1 / 100)))


class SurrogateDraws:
    """The configurations of one study: random ones from the pool, or such as a sampler adds."""

    def __init__(self, surrogate: Surrogate, seed: int, trials: int = 0) -> None:
        self.surrogate, self.random = surrogate, np.random.default_rng(seed)
        self.known = [surrogate.pool[at] for at in self.random.integers(POOL, size=trials)]
        self.luck = itertools.cycle(self.random.integers(len(surrogate.luck), size=4096).tolist())

    def add(self, values: Mapping[str, Any]) -> int:
        """A configuration that was proposed, and its number."""
        found = self.surrogate.foretell([values])[0]
        found[:-1] += self.surrogate.rough[self.random.integers(len(self.surrogate.rough))]
        self.known.append(np.exp(found).tolist())
        return len(self.known) - 1

    def macs(self, trial: int) -> float:
        return float(self.known[trial][-1])

    def truth(self, trial: int) -> float:
        """The loss after 9 epochs without a seed's luck."""
        return float(self.known[trial][LAST])

    def curve(self, trial: int, epochs: int) -> list[float]:
        """Validation losses of a new training: the last, and of 9 epochs the best of seven and the seventh."""
        known, luck = self.known[trial], self.surrogate.luck[next(self.luck)]
        last = COLUMN[epochs]
        if last != LAST:
            return [known[last] * luck[last]] * epochs
        seventh, best = (known[at] * luck[at] for at in (2, 3))
        return [min(best, seventh)] * 6 + [seventh] + [known[last] * luck[last]] * 2

    def repeated(self, trial: int, seeds: int) -> float:
        """The mean loss of so many more whole trainings."""
        return sum(self.curve(trial, 9)[-1] for _ in range(seeds)) / seeds
