"""The settings of a final, and the words of the command line that set them."""

import difflib
import re
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinysweep.errors import ConfigError
from tinysweep.settings.schema import TrackerConfig
from tinysweep.settings.section import Section, setting, type_in_words

TRACKER = TrackerConfig.KEY  # the one group that can be chosen here, as it decides nothing
# What of a run's settings the command decides itself, and by what.
DECIDED = {
    "trainer.seed": "seeds=N trains on the seeds from 0 to N-1",
    "trainer.test": "final models are tested once, candidates never",
    "trainer.threads": "jobs=N shares the cores out among N runs",
    "data.validation": "candidates are judged on the study's validation images, final models have none held out",
    "data.digest": "the images of a final are those of its study",
    "data.split_seed": "candidates are judged on the study's validation images",
    "data.fold": "each seed of a candidate holds out a fold of its own",
}


@dataclass
class FinalConfig(Section):
    """How a final is held."""

    top: int = setting(3, "best trials of the study that are trained again", "[1, 1000]")
    seeds: int = setting(5, "seeds of each model that is tested", "[1, 100]")
    selection_seeds: int | None = setting(None, "seeds of each candidate; null is as many as seeds", "[1, 100]")
    race: bool = setting(True, "candidates that are clearly behind the best get no further seeds")
    baseline: str | None = setting("era_seed", "experiment that the winner is compared with; null for none")
    runner_up: bool = setting(True, "test the second best candidate as well, to compare the winner with")
    exclude: list[int] = setting([], "numbers of trials to leave out", "[0, 1e9]")
    confidence: float = setting(0.95, "of intervals and verdicts", "[0.5, 1)")
    jobs: int | None = setting(None, "runs at a time; null is one a core", "[1, 1000]")
    storage: str | None = setting(
        None, "hydra.sweeper.storage of the study, where it isn't study.db in its folder"
    )
    study: str | None = setting(None, "name of the study, where that isn't its folder's")


def read_words(words: list[str]) -> tuple[FinalConfig, list[str]]:
    """The settings of the final, and the overrides of its runs: those with a dot in their name, and tracker.

    Raises:
        ConfigError: a word is neither, or its value breaks a rule.
    """
    known = {spec.name: spec for spec in fields(FinalConfig)}
    own, overrides = [], []
    for word in words:
        name, equals, _ = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"{word!r} can't be read; settings are given as KEY=VALUE, such as top=3")
        if name in DECIDED:
            raise ConfigError(f"{word} can't be given: {DECIDED[name]}")
        if "." in name or name == TRACKER:
            overrides.append(word)
        elif name in known:
            own.append(word)
        else:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"{name} is not a setting of tinysweep-final; {advice}")
    try:
        composed = OmegaConf.merge(OmegaConf.structured(FinalConfig), OmegaConf.from_dotlist(own))
        settings = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(_wrong_type(error, known, own)) from error
    assert isinstance(settings, FinalConfig)
    return settings, overrides


def seeds_in_words(count: int) -> str:
    """Such as "5 seeds"."""
    return f"{count} seeds" if count > 1 else "one seed"


def _wrong_type(error: OmegaConfBaseException, known: dict[str, Any], own: list[str]) -> str:
    key = re.split(r"[.\[]", str(error.full_key))[0]
    given = next((word for word in reversed(own) if word.startswith(f"{key}=")), key)
    return f"{given} must be {type_in_words(known[key].type)} ({known[key].metadata['meaning']})"
