"""benchmarks/gpu_trials.py runs here in all its ways but those that need CUDA, and says what it can't do."""

import importlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PROGRAM = """#!{python}
import os, pathlib, signal, subprocess, sys
server, log = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"], "server"), pathlib.Path("{log}")
if sys.argv[1:] == ["-d"]:
    keeps_its_output_open = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
    server.write_text(str(keeps_its_output_open.pid))
    log.write_text("started")
elif (words := sys.stdin.read().strip()) == "quit":
    os.kill(int(server.read_text()), signal.SIGKILL)
    server.unlink()
    log.write_text("stopped")
elif words == "get_server_list":
    print("123")
"""


@pytest.fixture
def gpu_trials(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_trials")


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """A made multi-process service; what it did last."""
    log, program = tmp_path / "log", tmp_path / "bin" / "nvidia-cuda-mps-control"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable, log=log))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return log.read_text


def made(module: ModuleType, arm: Any, losses: dict[int, list[float]], seconds: float = 10.0) -> Any:
    """An arm that found these validation losses, by training and epoch, in so long."""
    found = []
    for number, each in losses.items():
        same = dict.fromkeys(module.FIGURES, 0.5) | {"seconds": 9.0}
        rows = [same | {"validation_loss": loss, "epoch": epoch} for epoch, loss in enumerate(each, 1)]
        found.append(module.Answer("trained", 7, number, rows, 2.0, gpu_bytes=800 * 2**20))
    return module.Taken(arm, 1.0, seconds, found)


@pytest.mark.slow
def test_every_way_is_taken_on_a_cpu_and_written_down(tmp_path: Path, mnist_root: Path) -> None:
    words = ["--device", "cpu", "--tiny", "--out", str(tmp_path / "out"), "--data", str(mnist_root)]
    subprocess.run([sys.executable, BENCHMARKS / "gpu_trials.py", *words], check=True, timeout=500)
    arms = pd.read_csv(tmp_path / "out" / "arms.csv", keep_default_na=False).set_index("arm")
    epochs = pd.read_csv(tmp_path / "out" / "epochs.csv")
    assert list(arms.index) == [
        "one after the other", "2 processes, MPS", "2 threads", "2 processes, one killed"
    ]  # fmt: skip
    assert arms.note["2 processes, MPS"].startswith("left out")
    assert list(arms.trainings) == [4, 0, 4, 3], "the killed process had begun one"
    assert "3 of 4" in arms.note["2 processes, one killed"]
    taken = arms[arms.trainings > 0]
    assert (taken.same_bits.astype(float) == taken.trainings).all()
    assert (taken.trials_an_hour.astype(float) > 0).all()
    assert epochs.groupby("arm").process.nunique().to_dict() == {
        "one after the other": 1, "2 threads": 1, "2 processes, one killed": 1
    }  # fmt: skip
    assert epochs.groupby("training").validation_loss.nunique().eq(1).all()
    assert epochs.validation_loss.nunique() == 4


def test_a_row_compares_an_arm_with_the_same_trainings_alone(gpu_trials: ModuleType) -> None:
    alone = made(gpu_trials, gpu_trials.ALONE, {0: [2.0, 1.0], 1: [2.0, 0.5], 2: [3.0, 2.0], 3: [1.0, 1.0]})
    arm = gpu_trials.Arm(2, threads=2, mps=True)
    row = gpu_trials.row(made(gpu_trials, arm, {0: [2.0, 1.0], 1: [2.1, 0.5], 2: [3.0, 2.2]}, 2.5), alone, 1000)
    assert row["arm"] == "2 processes of 2 threads, MPS"
    assert row["times"] == pytest.approx(3.0)  # 3 in 2.5 s against 4 in 10 s
    assert row["images_a_second"] == 1200
    assert row["trials_an_hour"] == 4320
    assert row["busy"] == pytest.approx(3 * 2.0 / 2.5 / 4)
    assert row["gpu_mib_a_trial"] == 200
    assert row["same_bits"] == 1
    assert row["median_difference"] == pytest.approx(0.0)
    assert row["largest_difference"] == pytest.approx(0.1)
    assert gpu_trials.row(alone, alone, 1000)["same_bits"] == 4


def test_all_that_is_known_is_written_after_each_arm_and_none_begun_too_late(
    gpu_trials: ModuleType, tmp_path: Path, mnist_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, written = [0.0], []

    def take(arm: Any, _configs: object, _until: float, kill_after: float) -> Any:
        assert kill_after == (0.0 if arm == gpu_trials.ALONE else 5.0)
        clock[0] += 300 if arm == gpu_trials.ALONE else 70
        if clock[0] > 300:
            written.append(len(pd.read_csv(tmp_path / "arms.csv")))
        return made(gpu_trials, arm, {0: [1.0]})

    monkeypatch.setattr(gpu_trials, "take", take)
    monkeypatch.setattr(gpu_trials.time, "monotonic", lambda: clock[0])
    words = [
        "gpu_trials",
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
        "--seconds",
        "480",
        "--data",
        str(mnist_root),
    ]
    monkeypatch.setattr(sys, "argv", words)
    gpu_trials.main()
    assert written == [1, 2], "a third would have begun at 440 s and ended at 510"
    assert list(pd.read_csv(tmp_path / "arms.csv").arm) == [str(arm) for arm in gpu_trials.ARMS[:3]]


def test_the_service_runs_while_its_processes_do_and_no_other_is_found(
    gpu_trials: ModuleType, service: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/of/another")
    began = time.monotonic()
    with gpu_trials.sharing(gpu_trials.Arm(2, mps=True)) as running:
        assert service() == "started"
        assert running.answer("get_server_list") == "123"
        folder = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
        assert (folder / "server").exists()
    assert service() == "stopped"
    assert time.monotonic() - began < 20, "nobody waits for the service to end by itself"
    assert not folder.exists()
    with gpu_trials.sharing(gpu_trials.Arm(2)) as running:
        assert running is None
        assert list(Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"]).iterdir()) == []
    assert os.environ["CUDA_MPS_PIPE_DIRECTORY"] == "/of/another"


def test_without_the_service_its_arms_are_left_out_with_a_word(
    gpu_trials: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    configs = gpu_trials.trainings("nowhere", gpu_trials.Device.cuda, 2, tiny=True)
    taken = gpu_trials.take(gpu_trials.Arm(2, mps=True), configs, math.inf, 0.0)
    assert taken.found == []
    assert "no multi-process service" in taken.note
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ


def test_trainings_are_of_different_networks_then_of_other_seeds(gpu_trials: ModuleType) -> None:
    configs = gpu_trials.trainings("nowhere", gpu_trials.Device.cpu, 25, tiny=False)
    count = len(gpu_trials.NETWORKS)
    assert len(configs) == 25
    assert len({repr(config.model) for config in configs}) == count == 12
    assert [config.trainer.seed for config in configs] == [0] * count + [1] * count + [2]
    assert {config.budget.params for config in configs} == {1_000, 20_000}
