"""Trials and runs that differ by their seed alone as one row: the mean of each figure, how far the seeds spread,
and how many they are. What is compared are configurations, not the luckiest seed of each."""

from dataclasses import replace

import pandas as pd

from tinysweep.results.merge import FIGURES, SEEDS, SPREAD, VARYING, Merged, find_repeated, in_order, is_known
from tinysweep.search.study import Status
from tinysweep.search.table import SEED, is_figure


def merge_seeds(merged: Merged) -> Merged:
    """The table with a row for each configuration, in the place of its first seed, whose name and folder it keeps.
    A figure that one of the seeds lacks has no mean. Trials that didn't complete stay as they are, and so do a
    seed that is there again and rows that are means already, of a table that was written here."""
    keys = merged.labels.astype("string") + merged.alike  # missing where either is
    keys = keys.where((merged.frame.state == Status.complete).fillna(False))
    keys = keys[keys.notna() & ~pd.DataFrame({0: keys, 1: merged.frame.seed}).duplicated()]
    several = keys[keys.duplicated(keep=False)]
    if several.empty:
        return merged
    first = several.drop_duplicates()
    frame = _with_means(merged.frame, several, first).drop(index=several.index.difference(first.index))
    repeated = find_repeated(frame)
    rows = frame.index[~repeated]
    by_row = (merged.labels, merged.names, merged.alike)
    labels, names, alike = (each[rows].reset_index(drop=True) for each in by_row)
    count = merged.repeated + int(repeated.sum())
    frame = frame.loc[rows].reset_index(drop=True)
    return replace(merged, frame=frame, labels=labels, names=names, alike=alike, repeated=count)


def _with_means(frame: pd.DataFrame, several: "pd.Series[str]", first: "pd.Series[str]") -> pd.DataFrame:
    """The table in which the `first` row of each group of `several` holds what is true of the whole group."""
    varying = (name for name in map(str, frame) if name in VARYING or (name not in FIGURES and is_figure(name)))
    figures = {name: f"{name}{SPREAD}" for name in varying}
    order = in_order(dict.fromkeys([*filter(is_known, map(str, frame)), SEEDS, *figures.values()]))
    made = frame.reindex(columns=[*order, *(name for name in frame if name not in order)])
    made = made.astype({name: FIGURES.get(name, "Float64") for name in order})
    groups = frame.loc[several.index].groupby(several, sort=False)
    size = groups.size().loc[first]
    means = {SEEDS: size, "started": groups.started.min().loc[first], "finished": groups.finished.max().loc[first]}
    for name, deviation in figures.items():
        whole = (groups[name].count().loc[first] == size).to_numpy()
        means[name] = groups[name].mean().loc[first].where(whole)
        means[deviation] = groups[name].std().loc[first].where(whole)
    for name, values in means.items():
        made.loc[first.index, name] = values.array
    made.loc[first.index, [name for name in ("seed", SEED) if name in made]] = pd.NA
    return made.drop(columns=[name for name in figures.values() if made[name].isna().all()])
