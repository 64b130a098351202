"""Whether trials can be compared: on which images they were judged, whether chance explains a difference, and what
makes a ranking unfair."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tinysweep.console import GAP, clean, first_names, wrap
from tinysweep.data.catalogue import DATA_SETS
from tinysweep.errors import DataError
from tinysweep.metrics import TEST_METRICS
from tinysweep.results.merge import DEVIATIONS, SEEDS, TESTED, Merged, load_record

SOURCES = (
    "data",
    "data.name",
    "data.root",
    "data.validation",
    "data.split_seed",
    "data.fold",
)  # of the images that judge
LIMIT = "data.limit"
PROBED = 100  # trials of a study in which a record is looked for; on another machine none has one


def config_in(folder: Any) -> dict[str, Any]:
    """The configuration in the record of a trial's folder; empty where the record isn't on this machine."""
    try:
        found = load_record(Path(str(folder)))["config"]
    except (DataError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def validation_images(config: dict[str, Any]) -> str | None:
    """The images that validation figures were judged on, in words; None if none were held out, or nobody knows.
    Image folders are told apart by what they hold or, in old records, by where they lie."""
    try:
        data = config["data"]
        name, share, seed = str(data["name"]), float(data["validation"]), int(data["split_seed"])
        fold, digest = int(data.get("fold", 0)), data.get("digest")
        source = name if name in DATA_SETS else f"data.digest={digest}" if digest else str(data["root"])
    except (KeyError, TypeError, ValueError):
        return None
    size = f"{share:,.0f} images" if share >= 1 else f"{100 * share:g}% of the images"
    split = f"data.split_seed={seed}" + (f", data.fold={fold}" if fold else "")
    return f"{size} of {clean(source)}, {split}" if share > 0 else None


def image_count(config: dict[str, Any], column: str) -> int | None:
    """On how many images an accuracy was measured, as far as a configuration and the catalogue tell."""
    known = DATA_SETS.get(str(config.get("data", {}).get("name")))
    if not known:  # an image folder may have a val/ of any size
        return None
    if column == TESTED:
        return known.test_count
    share = float(config["data"]["validation"]) if validation_images(config) else 0
    return int(share) if share >= 1 or not share else max(1, round(share * known.train_count))


def standard_error(accuracies: Sequence[float], counts: Sequence[int]) -> float:
    """The binomial standard error of the difference of two accuracies, each measured on so many images: the root
    of the sum of p(1 - p)/n. It takes the images to be different ones; models that fail on the same images differ
    by chance less than this."""
    return math.sqrt(sum(each * (1 - each) / count for each, count in zip(accuracies, counts, strict=True)))


def noise(name: str, two: Sequence["pd.Series[Any]"], configs: Sequence[dict[str, Any]]) -> str:
    """Whether chance explains the difference between two accuracies, each of one run or the mean of several seeds;
    empty if nobody knows."""
    counts = [count for found in configs if (count := image_count(found, name))]
    accuracies = [float(row[name]) for row in two if name in row and pd.notna(row[name])]
    if len(counts) < 2 or len(accuracies) < 2 or not all(0 <= each <= 1 for each in accuracies):
        return ""
    apart = abs(accuracies[0] - accuracies[1])
    error, over = standard_error(accuracies, counts), "binomial standard error of the difference"
    of = [(row.get(DEVIATIONS[name]), row.get(SEEDS)) for row in two]
    if seeds := [(float(sd), int(count)) for sd, count in of if pd.notna(sd) and pd.notna(count)]:
        error = math.hypot(error, *(sd / math.sqrt(count) for sd, count in seeds))
        over = "standard error of the difference, over images and seeds,"
    size = " and ".join(f"{count:,}" for count in dict.fromkeys(counts))
    more = f" and {' and '.join(str(count) for _, count in seeds)} seeds" if seeds else ""
    side = "within" if apart <= error else "beyond"
    judged = f"one {over} being {100 * error:.2f} points on {size} images{more}"
    return wrap(f"{name}: {100 * apart:.2f} points are {side} noise, {judged}", GAP)


# ---- what is said of a ranking that isn't fair


def cautions(merged: Merged, completed: pd.DataFrame, sort: str) -> Iterator[str]:
    """What makes a ranking unfair or worth less than it seems, a line each."""
    if merged.damaged:
        more = f" (and {len(merged.damaged) - 1} more)" if len(merged.damaged) > 1 else ""
        yield f"left out: {merged.damaged[0]}{more}"
    if len(groups := _group(_judges(merged, completed))) > 1:
        yield f"validation figures of different images can't be ranked fairly: {_list_groups(groups)}"
    if apart := [groups for groups in _trainings(merged, completed) if len(groups) > 1]:
        said = "; ".join(map(_list_groups, apart))
        yield f"trained differently, so that a better figure needn't mean a better model: {said}"
    aimed = completed[completed.objective.notna()]
    aims = zip(aimed.objective.map(clean), merged.labels[aimed.index], strict=True)
    if len(groups := _group(aims)) > 1:
        yield f"the studies aimed at different objectives, and one ranking favours some: {_list_groups(groups)}"
    if sort in TEST_METRICS:
        yield "what is chosen by the test set has no fair test left: its figures here flatter it"


def _sources(merged: Merged) -> "pd.Series[str]":
    """Whose each row is: the study's, or the single run's."""
    return merged.labels.where(merged.frame.number.notna(), merged.names)


def _judges(merged: Merged, completed: pd.DataFrame) -> list[tuple[str, str]]:
    """The images that trials were judged on, and whose trials: of every single run, and of each study by one trial
    with a record for each of the data that it searched. Where no record is there, what was searched has to do."""
    data, names = [name for name in merged.parameters if name in SOURCES], _sources(merged)
    keys = [names[completed.index], *(completed[each] for each in data)]
    recorded, searched = [], []
    for _, rows in completed.groupby(keys, dropna=False, sort=False):
        first, name = rows.iloc[0], str(names[rows.index[0]])
        judges = (validation_images(config_in(folder)) for folder in rows.folder[:PROBED])
        if judge := next(filter(None, judges), None):
            recorded.append((judge, name))
        if words := [f"{each}={clean(first[each])}" for each in data if pd.notna(first[each])]:
            searched.append((" ".join(words), name))
    return recorded or searched


def _trainings(merged: Merged, completed: pd.DataFrame) -> Iterator[dict[str, list[str]]]:
    """For how many epochs and on how many images the trials of each study and each run were trained, as far as is
    known. A study that searched over these differs within itself, which its table shows."""
    epochs, limits = list[tuple[str, str]](), list[tuple[str, str]]()
    for name, rows in completed.groupby(_sources(merged)[completed.index], sort=False):
        if known := sorted(set(rows.epochs.dropna())):
            epochs.append((f"trainer.epochs={first_names(list(map(str, known)))}", str(name)))
        if LIMIT in rows and rows[LIMIT].notna().any():
            limits.append((f"{LIMIT}={first_names(sorted(set(rows[LIMIT].dropna().map(clean))))}", str(name)))
        elif config := next(filter(None, map(config_in, rows.folder[:PROBED])), None):
            limit = config.get("data", {}).get("limit")
            limits.append((f"{LIMIT}={'null' if limit is None else limit}", str(name)))
    yield from (_group(epochs), _group(limits))


def _group(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, name in dict.fromkeys(pairs):
        groups[key].append(name)
    return groups


def _list_groups(groups: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{key} ({first_names(names)})" for key, names in groups.items())
