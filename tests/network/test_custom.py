"""A network of one's own: what it is given, what it costs, what is refused, how it is told from later versions."""

import csv
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tinysweep
from conftest import Command
from tinysweep import targets
from tinysweep.commands import inspect, train
from tinysweep.data.catalogue import DataShape
from tinysweep.data.load import Data
from tinysweep.errors import ConfigError, DataError
from tinysweep.network.budget import measure, resolve
from tinysweep.network.build import build_model
from tinysweep.settings.schema import (
    BudgetConfig,
    Config,
    DropoutConfig,
    DropoutName,
    Family,
    ModelConfig,
    TrainerConfig,
)
from tinysweep.targets import Target

MNIST = DataShape(1, 28, 10)
SOURCE = """
import torch
from torch import nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self, width, shape, kernel=3):
        super().__init__()
        self.first = nn.Conv2d(shape.channels, width, kernel, padding=kernel // 2)
        self.second = nn.Conv2d(width, 2 * width, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(2 * width)
        self.last = nn.Linear(2 * width * (shape.size // 4) ** 2, shape.classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.max_pool2d(F.relu(self.norm(self.second(x))), 2)
        return self.last(x.view(len(x), -1))


class Lends(nn.Module):
    \"\"\"One matrix used twice, by functions; one frozen, one buffer.\"\"\"

    def __init__(self, width, shape):
        super().__init__()
        self.into = nn.Parameter(torch.zeros(784, 10))
        self.mix = nn.Parameter(torch.zeros(10, 10))
        self.frozen = nn.Parameter(torch.zeros(7), requires_grad=False)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x):
        return x.flatten(1) @ self.into @ self.mix @ self.mix


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def from_numbers(width, shape):
    assert torch.ones(()).item() == 1  # which no tensor on the meta device can tell
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 4 * width), nn.Linear(4 * width, 10))


def nothing(width):
    pass


def five_classes(width, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 5))


def narrower(width, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, max(1, 12 - width)), nn.Linear(max(1, 12 - width), 10))


def deaf(width, shape):
    return plain()


def fails(width, shape):
    raise ValueError("no such width")


class FailsForward(nn.Module):
    def __init__(self, width, shape):
        super().__init__()
        self.layer = nn.Linear(3, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))


text = "no network"
"""


@pytest.fixture
def own(place: Path) -> Iterator[Path]:
    """The folder where one works, with a module of one's own."""
    (place / "ownnets.py").write_text(SOURCE)
    yield place
    forget()
    sys.path[:] = [entry for entry in sys.path if entry != str(place)]


def forget() -> None:
    """As a new process begins."""
    for name in [name for name in sys.modules if name.startswith("own")]:
        del sys.modules[name]
    targets.forget()


def model(name: str, width: int | str = 2, **options: object) -> ModelConfig:
    return ModelConfig(family=Family.custom, target=f"ownnets:{name}", width=width, options=options)


@pytest.mark.usefixtures("own")
def test_a_network_gets_width_shape_and_options_and_keeps_its_view() -> None:
    network = build_model(model("Net", 3, kernel=5), DataShape(3, 20, 4))
    images = torch.zeros(2, 3, 20, 20).contiguous(memory_format=torch.channels_last)
    assert network(images).shape == (2, 4)
    assert {tuple(weight.shape) for weight in network.parameters()} >= {(3, 3, 5, 5), (6, 3, 5, 5), (4, 150)}


@pytest.mark.usefixtures("own")
def test_it_costs_what_its_layers_and_functions_cost_and_shared_weights_once() -> None:
    cost = measure(model("Net", 2, kernel=3), MNIST)
    assert cost.params == 2 * 9 + 2 + 4 * 2 * 9 + 4 + 2 * 4 + 10 * 4 * 49 + 10
    assert cost.macs == 28 * 28 * 2 * 9 + 14 * 14 * 4 * 2 * 9 + 10 * 4 * 49
    assert cost.activation_bytes == 28 * 28 + 2 * 28 * 28
    lends = measure(model("Lends"), MNIST)
    assert (lends.params, lends.frozen, lends.buffers) == (7840 + 100, 7, 3)
    assert lends.macs == 7840 + 2 * 100


@pytest.mark.usefixtures("own")
def test_five_views_cost_five_times_the_macs() -> None:
    assert measure(replace(model("Net"), views=5), MNIST).macs == 5 * measure(model("Net"), MNIST).macs


@pytest.mark.usefixtures("own")
def test_one_that_the_meta_device_can_not_take_is_costed_on_the_cpu() -> None:
    assert measure(model("from_numbers", 2), MNIST).params == 784 * 8 + 8 + 8 * 10 + 10


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("kernel", [3, 5])
def test_auto_is_the_widest_within_the_budget(kernel: int) -> None:
    config = resolve(Config(model=model("Net", "auto", kernel=kernel), budget=BudgetConfig(params=9000)), MNIST)
    wider = model("Net", int(config.model.width) + 1, kernel=kernel)
    assert measure(config.model, MNIST).params < 9000 <= measure(wider, MNIST).params
    assert config.model.digest is not None


@pytest.mark.usefixtures("own")
def test_one_without_a_width_needs_none() -> None:
    assert resolve(Config(model=model("plain", "auto")), MNIST).model.width == 1


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "nowhere:make"}, "there is no module nowhere in "),
        ({"target": "ownnets:none"}, "there is no none in "),
        ({"target": "ownnets:text"}, "is a str; it must be a function or a class"),
        ({"target": "ownnets:nothing"}, "returns nothing; it must return a torch.nn.Module"),
        ({"target": "ownnets:five_classes"}, r"gives shape \(2, 5\) .*; it must be logits of shape \(2, 10\)"),
        ({"target": "ownnets:narrower", "width": "auto"}, r"at width 1 and .* at width 2"),
        ({"target": "ownnets:deaf", "width": "auto"}, r"at width 1 and .* at width 2"),
        ({"target": "ownnets:fails"}, r"raises ValueError: no such width \(ownnets.py, line \d+\)"),
        ({"target": "ownnets:FailsForward"}, r"on images \(2, 1, 28, 28\) it raises RuntimeError: .*\(ownnets.py"),
        ({"target": "ownnets:plain", "width": 8}, "model.width=8: .* has no argument width"),
        ({"options": {"kernl": 5}}, "model.options.kernl=5: ownnets:Net has no argument kernl; there are kernel"),
        ({"options": {"shape": 5}}, "model.options.shape must be left out"),
        ({"options": {"kernel": "five"}}, r"raises TypeError: .*\(ownnets.py, line"),
        ({"target": "os:system", "options": {"command": "false"}}, "a module of Python itself"),
    ],
)  # fmt: skip
def test_what_is_no_network_is_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    config = Config(model=replace(model("Net"), **changes))
    with pytest.raises(ConfigError, match=said) as refusal:
        measure(resolve(config, MNIST).model, MNIST)
    assert "\n" not in str(refusal.value)


def test_a_module_that_can_not_be_imported_is_told_with_its_line(own: Path) -> None:
    (own / "ownbroken.py").write_text("import torch\nimport ownmissing\n")
    with pytest.raises(ConfigError, match=r"raises ModuleNotFoundError: .*ownmissing.* \(ownbroken.py, line 2\)"):
        Target("model.target", "ownbroken:make").find()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"family": "custom"}, "model.target=null must be MODULE:NAME"),
        ({"family": "custom", "target": "ownnets"}, "model.target=ownnets must be MODULE:NAME"),
        ({"family": "custom", "target": "a:b", "depth": [2]}, r"model.depth=\[2\] is read only by model=plain"),
        ({"family": "plain", "target": "a:b"}, "model.target=a:b is read only by model=custom"),
        ({"family": "plain", "options": {"a": 1}}, "model.options=.* is read only by model=custom"),
    ],
)
def test_settings_that_a_choice_does_not_read_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ModelConfig(**values)  # type: ignore[arg-type]


@pytest.mark.usefixtures("own")
def test_dropout_is_the_networks_own() -> None:
    with pytest.raises(ConfigError, match=r"dropout\.name=head must be none for model=custom"):
        Config(model=model("Net"), dropout=DropoutConfig(DropoutName.head))


def test_the_digest_is_that_of_the_module_and_of_what_it_imports_beside_it(own: Path) -> None:
    (own / "ownlayers.py").write_text("from ownparts import size\n")
    (own / "ownparts.py").write_text("size = 3\n")
    (own / "ownother.py").write_text("size = 4\n")
    (own / "ownmodel.py").write_text("import json\nfrom ownlayers import size\n\ndef make(): ...\n")
    first = Target("model.target", "ownmodel:make").digest()
    found = []
    for name in ("ownother", "ownparts", "ownmodel"):
        file = own / f"{name}.py"
        file.write_text(file.read_text() + "# changed\n")
        forget()
        found.append(Target("model.target", "ownmodel:make").digest())
    assert found[0] == first
    assert len({*found}) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("mnist_root")
def test_the_page_on_ones_own_network_and_metric_is_true(place: Path, command: Command) -> None:
    page = (Path(__file__).parents[2] / "docs/own.md").read_text()
    network, metric = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (place / "mynets.py").write_text(network)
    (place / "mymetrics.py").write_text(metric)
    words = [shlex.split(line) for line in re.findall(r"^    (tinysweep.*)$", page, flags=re.MULTILINE)]
    assert len(words) == 5
    for name, *overrides in words:
        ended = command(*overrides, main={"tinysweep": train.main, "tinysweep-inspect": inspect.main}[name])
        assert ended.status == 0, ended.err
    (place / "conf/model").mkdir(parents=True)
    (made,) = re.findall(
        r"^    conf/model/mine.yaml +(\w+: .*)\n +(\w+: .*)\n +(\w+: .*)$", page, flags=re.MULTILINE
    )
    (place / "conf/model/mine.yaml").write_text("\n".join(made))
    assert command("model=mine", main=inspect.main).status == 0


def run_in(folder: Path, code: str) -> str:
    """What Python prints of some lines, in a folder."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


TINY = ("trainer.epochs=1", "data.limit=64", "data.validation=100", "trainer.test=false")
LOAD = "import sys, tinysweep, torch; print(tinysweep.load(sys.argv[1])(torch.zeros(1, 1, 28, 28)).shape)"


@pytest.mark.usefixtures("mnist_root")
def test_a_run_notes_its_source_and_its_model_loads_again_or_says_what_is_missing(
    own: Path, command: Command, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder = own / "outputs/one"
    words = ("model=custom", "model.target=ownnets:Net", "model.options.kernel=5", "model.width=2", *TINY)
    ended = command(*words, f"hydra.run.dir={folder}")
    assert ended.status == 0, ended.err
    assert "ownnets:Net model of width 2" in ended.out
    digest = Target("model.target", "ownnets:Net").digest()
    assert f"digest: {digest}" in (folder / "config.yaml").read_text()
    logits = tinysweep.load(folder)(torch.zeros(1, 1, 28, 28))
    assert logits.shape == (1, 10)
    assert not recwarn.list

    (own / "ownnets.py").write_text(SOURCE + "# a later version\n")
    forget()
    with pytest.warns(UserWarning, match="source of ownnets:Net has changed"):
        assert torch.equal(tinysweep.load(folder)(torch.zeros(1, 1, 28, 28)), logits)
    ended = command(*words, f"model.digest={digest}")
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert "has changed since" in ended.err

    (own / "ownnets.py").write_text(SOURCE.replace("2 * width", "3 * width"))
    forget()
    with (
        pytest.warns(UserWarning, match="changed"),
        pytest.raises(DataError, match=r"weights don't fit what .*ownnets:Net makes now"),
    ):
        tinysweep.load(folder)
    said = run_in(tmp_path, f"import tinysweep; tinysweep.load({str(folder)!r})")
    assert "needs the source of its network: model.target=ownnets:Net: there is no module ownnets" in said


def test_a_choice_of_ones_own_is_found_in_conf_where_one_works(own: Path, command: Command) -> None:
    (own / "conf/model").mkdir(parents=True)
    (own / "conf/experiment").mkdir()
    (own / "conf/model/mine.yaml").write_text("family: custom\ntarget: ownnets:Net\noptions: {kernel: 5}\n")
    (own / "conf/experiment/short.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: mine\nbudget: {params: 5000}\n"
    )
    ended = command("experiment=short", "model.options.kernel=3", main=inspect.main)
    assert ended.status == 0, ended.err
    assert "Conv2d 3x3" in ended.out
    assert "fewer than 5,000" in ended.out
    (own / "conf/model/plain.yaml").write_text("family: custom\ntarget: ownnets:Net\n")
    assert command("model=residual", main=inspect.main).status == 0, "what isn't chosen stands in nobody's way"
    ended = command("model=plain", main=inspect.main)
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert "model=plain is one of tinysweep's own choices, and " in ended.err


def test_what_is_costed_is_what_is_trained(own: Path, made_data: Data) -> None:
    (own / "ownchanging.py").write_text(
        "from torch import nn\n\nmade = []\n\n\nclass Thaws(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.first, self.last = nn.Linear(784, 4), nn.Linear(4, 10)\n"
        "        self.first.requires_grad_(False)\n\n"
        "    def forward(self, x):\n        self.first.requires_grad_(self.training)\n"
        "        return self.last(self.first(x.flatten(1)))\n\n\n"
        "def grows():\n    made.append(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, len(made)), nn.Linear(len(made), 10))\n\n\n"
        "def lazy():\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))\n"
    )
    trainer = TrainerConfig(epochs=1, batch_size=50, threads=1)

    def network(name: str) -> Config:
        target = ModelConfig(family=Family.custom, target=f"ownchanging:{name}", width=1)
        return Config(model=target, trainer=trainer)

    with pytest.raises(ConfigError, match="to be costed, and now one of"):
        tinysweep.fit(network("grows"), made_data)
    with pytest.raises(ConfigError, match="has lazy layers"):
        tinysweep.gate(network("lazy"), MNIST)
    thaws = network("Thaws")
    assert tinysweep.gate(thaws, MNIST).params == 50
    torch.manual_seed(trainer.seed)
    before = build_model(thaws.model, MNIST).state_dict()
    after = tinysweep.fit(thaws, made_data).model[1].state_dict()  # type: ignore[index]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"0.network.last.weight", "0.network.last.bias"}, (
        "what was frozen when it was counted stays so"
    )


@pytest.mark.usefixtures("mnist_root")
def test_a_run_that_changes_its_folder_finds_the_module_where_it_was_typed(own: Path, command: Command) -> None:
    words = ("model=custom", "model.target=ownnets:Net", "model.width=2", "hydra.job.chdir=true", *TINY)
    ended = command(*words)
    os.chdir(own)
    assert ended.status == 0, ended.err


@pytest.mark.usefixtures("mnist_root")
@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_a_sweep_over_options_trains_none_over_the_budget(own: Path, launcher: str) -> None:
    words = ["-m", "model=custom", "model.target=ownnets:Net", "model.options.kernel=3,7,9",
             "model.width=2,3", "budget.params=2500", "hydra.sweeper.study_name=own",
             f"hydra/launcher={launcher}", *TINY]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tinysweep", *words], cwd=own, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (own / "outputs/sweeps/own/trials.csv").open() as table:
        rows = list(csv.DictReader(table))
    fitting = [row for row in rows if int(row["params"]) < 2500]
    assert (len(fitting), len(rows)) == (2, 6)
    assert {row["state"] for row in rows} == {"complete", "over_budget"}
    trained = {path.parent.name for path in (own / "outputs/sweeps/own/trials").glob("*/model.pt")}
    assert trained == {row["number"] for row in fitting}
    assert all(row["state"] == "complete" for row in fitting)
