"""A configuration comes back from the files of this version and of earlier ones."""

import json
from dataclasses import asdict
from typing import Any

import pytest
from omegaconf.errors import OmegaConfBaseException

from tinysweep.errors import ConfigError
from tinysweep.settings.schema import Config, DropoutConfig, DropoutName, ModelConfig
from tinysweep.settings.stored import flatten, read_config, rename_old_settings

WITHOUT, AFTER_STAGES = DropoutConfig(), DropoutConfig(DropoutName.stage, 0.2)


def as_json(config: Config) -> Any:
    return json.loads(json.dumps(asdict(config)))


@pytest.mark.parametrize("dropout", [WITHOUT, AFTER_STAGES])
def test_a_configuration_comes_back(dropout: DropoutConfig) -> None:
    config = Config(model=ModelConfig(depth=[2, 1]), dropout=dropout, trial=3)
    assert read_config(as_json(config)) == config


@pytest.mark.parametrize(("rate", "dropout"), [(0.0, WITHOUT), (0, WITHOUT), (0.2, AFTER_STAGES)])
def test_dropout_was_once_two_settings_of_the_model(rate: float, dropout: DropoutConfig) -> None:
    earlier = as_json(Config())
    del earlier["dropout"]
    earlier["model"] |= {"dropout": rate, "dropout_at": "stage"}
    assert read_config(earlier).dropout == dropout
    as_text = {key: str(value) for key, value in flatten(earlier).items()}
    now = {key: value for key, value in rename_old_settings(as_text).items() if "dropout" in key}
    assert now == ({} if dropout == WITHOUT else {"dropout.name": "stage", "dropout.rate": "0.2"})


@pytest.mark.parametrize("held", [None, [], "text", {"model": {"width": 0}}])
def test_what_is_no_configuration_is_refused(held: Any) -> None:
    with pytest.raises(ConfigError):
        read_config(held)


def test_what_is_no_setting_is_refused() -> None:
    with pytest.raises(OmegaConfBaseException, match="widht"):
        read_config({"model": {"widht": 3}})
