"""One table of all that the speed benchmarks found, from the CSV that each has left beside itself.

python benchmarks/summary.py
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from tinysweep.files import write_whole

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
RESULT = Path(__file__).with_suffix(".csv")

Row = tuple[str, str]  # what, and the figure with its unit


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(HERE / f"{name}.csv", keep_default_na=False, na_values=[""])


def loops() -> Iterator[Row]:
    """Images a second of the baseline recipe in the straightforward loop and in tinysweep's, and the factor."""
    for what, name in (("one run", "epoch_time"), ("a study, a job a core", "study_rate")):
        plain, ours = read(name).iloc[0], read(name).iloc[1]
        yield (f"{what}: images a second, straightforward loop", f"{plain['images_per_second']:,}")
        yield (f"{what}: images a second, tinysweep", f"{ours['images_per_second']:,}")
        yield (f"{what}: times faster", f"{ours['times_faster']:.2f}")


def time_to_accuracy() -> Iterator[Row]:
    plain, _, fast = (row for _, row in read("time_to_accuracy").iterrows())
    yield ("baseline, 20 epochs in the straightforward loop", f"{plain['median_seconds']:.0f} s")
    yield ("experiment=fast", f"{fast['median_seconds']:.1f} s")
    yield ("experiment=fast: times faster", f"{fast['times_faster']:.1f}")
    yield ("experiment=fast: test accuracy over seeds", f"{fast['test_accuracy']} ± {fast['sd']:.2f}")
    yield ("experiment=fast: seeds of at least 99.40%", str(fast["reach_99.4"]))


def same_accuracy() -> Iterator[Row]:
    for _, row in read("same_accuracy").iterrows():
        yield (f"baseline recipe, {row['loop']}: test accuracy", f"{row['mean']:.2f}% ± {row['sd']:.2f}")


def limit() -> Iterator[Row]:
    for _, row in read("limit").iterrows():
        yield (f"{row['recipe']}: share of the convolution limit", f"{100 * row['share']:.1f}%")


def start() -> Iterator[Row]:
    for _, row in read("start").iterrows():
        yield (str(row["what"]), f"{row['median_seconds']:.2g} s")


def growth() -> Iterator[Row]:
    for what, rows in read("growth").groupby("what", sort=False):
        for before, after in zip(rows.itertuples(), rows.iloc[1:].itertuples(), strict=False):
            exponents = f"{after.exponent_of_time:.2f} (time), {after.exponent_of_memory:.2f} (memory)"
            yield (f"{what}, {before.size:,} to {after.size:,}: exponent", exponents)


def studies() -> Iterator[Row]:
    """What a job costs beside its training, one worker at a time, and a trial's CPU time as studies grow."""
    table = pd.read_csv(RESULTS / "parallel.csv")
    one = table[table["workers"] == 1].iloc[0]
    beside = (one["trials_seconds"] - one["train_seconds"]) / one["trials"]
    yield ("a sweep's job in a warm worker, beside training", f"{beside:.2f} s")
    for sampler, rows in pd.read_csv(RESULTS / "overhead.csv").groupby("sampler", sort=False):
        last = rows.iloc[-1]
        figures = f"{last['tinysweep_exponent']:.2f}, Optuna's alone {last['alone_exponent']:.2f}"
        yield (f"{sampler}, {rows.iloc[-2]['trials']:,} to {last['trials']:,} trials: exponent", figures)


def gpu() -> Iterator[Row]:
    table = read("gpu")
    for recipe, rows in table.groupby("recipe", sort=False):
        apart, together = rows.iloc[0], rows.iloc[1]
        factor = together["images_a_second"] / apart["images_a_second"]
        yield (
            f"{recipe} on {together['device']}: images a second, the GPU computing, times faster by graphs",
            f"{together['images_a_second']:,}, {100 * together['computing']:.0f}%, {factor:.1f}",
        )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    parts = (loops, time_to_accuracy, same_accuracy, limit, start, growth, studies, gpu)
    table = pd.DataFrame([row for part in parts for row in part()], columns=["what", "figure"])
    machine = read("epoch_time").iloc[0]
    print(f"{machine['cores']} cores of {machine['cpu']}, torch {machine['torch']}")
    width = table["what"].str.len().max()
    print("\n".join(f"{what:<{width}}  {figure}" for what, figure in table.itertuples(index=False)))
    table["cores"], table["cpu"], table["torch"] = machine["cores"], machine["cpu"], machine["torch"]
    write_whole(RESULT, table.to_csv(index=False))


if __name__ == "__main__":
    main()
