"""tinysweep-predict: each picture gets a line, from a model in any of its files; what can't be gets one too."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import Command
from small_model import Export, Grey
from tinysweep.commands.predict import main
from tinysweep.data.catalogue import DataShape
from tinysweep.network.build import build_model
from tinysweep.run.checkpoint import save
from tinysweep.run.curves import draw
from tinysweep.settings.schema import Config, DataConfig, DataName, ModelConfig
from tinysweep.training.loop import Epoch, Normalise

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def scans(place: Path, digits: Grey) -> list[str]:
    """Three test images: 7, 2 and 1."""
    names = [f"scans/{number}.png" for number in range(3)]
    (place / "scans").mkdir()
    for name, digit in zip(names, digits, strict=False):
        Image.fromarray(digit).save(place / name)
    return names


@pytest.fixture
def onnx_file(exported: Export) -> str:
    return str(exported.folder / "model.onnx")


def test_each_picture_gets_a_line_with_its_likeliest_classes(
    command: Command, small: Path, scans: list[str], model: nn.Module, digits: Grey
) -> None:
    ended = command(str(small), *scans, main=main)
    assert (ended.status, ended.err) == (0, "")
    lines = [line.split() for line in ended.out.splitlines()]
    assert [line[:2] for line in lines] == [[scans[0], "7"], [scans[1], "2"], [scans[2], "1"]]
    assert all(len(line) == 7 for line in lines), "three classes and their probabilities"
    with torch.inference_mode():
        expected = model(torch.from_numpy(digits[:3]).unsqueeze(1).float()).softmax(1)
    for line, chances in zip(lines, expected, strict=True):
        for label, percent in zip(line[1::2], line[2::2], strict=True):
            assert float(percent.rstrip("%")) == pytest.approx(100 * float(chances[int(label)]), abs=0.051)


def test_json_is_an_object_a_line_and_the_same_from_either_runtime(
    command: Command, small: Path, onnx_file: str, scans: list[str]
) -> None:
    found = []
    for path in (str(small / "model.pt"), onnx_file):
        ended = command(path, *scans, "--json", "--top", "99", main=main)
        assert (ended.status, ended.err) == (0, "")
        found.append([json.loads(line) for line in ended.out.splitlines()])
    assert [each["image"] for each in found[0]] == [each["image"] for each in found[1]] == scans
    for one, other in zip(*found, strict=True):
        chances = [{each["class"]: each["probability"] for each in of["predictions"]} for of in (one, other)]
        assert chances[0] == pytest.approx(chances[1], abs=1e-5)
        assert sum(chances[0].values()) == pytest.approx(1)
        assert [each["probability"] for each in one["predictions"]] == sorted(chances[0].values(), reverse=True)
        assert all(each["class"] == str(each["label"]) for each in one["predictions"])


def test_a_folder_stands_for_the_pictures_in_it_but_for_plots_of_tinysweep(
    command: Command, onnx_file: str, scans: list[str]
) -> None:
    Path("scans/notes.txt").write_text("no picture")
    Path("scans/.hidden.png").write_text("no picture")
    Path("scans/deep").mkdir()
    Path(scans[2]).rename("scans/deep/last.PNG")
    draw([Epoch(1, 1.0, 1.0, 0.5, 0.1, 1.0)], "run", Path("scans/curves.png"))
    ended = command(onnx_file, "scans", "--top", "1", main=main)
    assert ended.status == 0
    lines = [line.split()[:2] for line in ended.out.splitlines()]
    assert lines == [["scans/0.png", "7"], ["scans/1.png", "2"], ["scans/deep/last.PNG", "1"]]
    assert ended.err == "scans/curves.png is a plot that tinysweep drew: passed over\n"


def test_bad_pictures_dont_keep_the_others_from_being_named(
    command: Command, onnx_file: str, scans: list[str], place: Path
) -> None:
    content = Path(scans[0]).read_bytes()
    bad = {"empty.png": b"", "text.png": b"no image\n" * 9, "half.png": content[: len(content) // 2]}
    for name, data in bad.items():
        (place / name).write_bytes(data)
    Image.new("L", (50, 50), 255).save("blank.png")
    Image.fromarray(np.ones((9, 9), np.float32)).save("range.tif")
    Path("folder").mkdir()
    reasons = {
        **dict.fromkeys(bad, " is not a readable image"),
        "missing.png": ": no such file",
        "blank.png": " is blank",
        "range.tif": " is not a readable image (the range of 32-bit pixels is not known)",
        "folder": " is a folder without pictures",
    }
    ended = command(onnx_file, scans[0], *reasons, scans[1], "--top", "1", main=main)
    assert ended.status == 1
    assert [line.split()[1] for line in ended.out.splitlines()] == ["7", "2"]
    for line, (name, reason) in zip(ended.err.splitlines(), reasons.items(), strict=True):
        assert line.startswith(f"error: {name}{reason}")


def test_the_classes_of_own_images_go_by_their_names_even_when_their_folder_is_gone(
    command: Command, place: Path
) -> None:
    shape, config = DataShape(1, 12, 2), ModelConfig(width=3, depth=[1, 1], stem_kernel=3)
    for name in ("bird of prey", "cat"):
        (place / "photos" / name).mkdir(parents=True)
    network = nn.Sequential(Normalise((0.2,), (0.3,)), build_model(config, shape)).eval()
    data = DataConfig(DataName.image_folder, root=str(place / "photos"), image_size=12)
    (place / "run").mkdir()
    save(place / "run/model.pt", network.state_dict(), Config(model=config, data=data), shape)
    (place / "photos").rename(place / "gone")
    Image.new("RGBA", (5, 9), "red").save(place / "x.png")
    ended = command("run", "x.png", main=main)
    assert (ended.status, ended.err) == (0, "")
    assert "bird of prey " in ended.out
    assert "cat " in ended.out
    ended = command("run", "x.png", "--invert", "yes", main=main)
    assert "--invert yes is for models of digits" in ended.err


def write_bare_model(small: Path, path: Path) -> None:
    """A model as it was saved before files told their data, away from its record."""
    content = torch.load(small / "model.pt")
    torch.save({key: content[key] for key in ("model", "shape", "weights")}, path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such file; give the folder of a finished run, its model.pt or an exported"),
        (["."], "model.pt: no such file; give the folder of a finished run or its model.pt"),
        (["{picture}"], "0.png is not a model saved by tinysweep ("),
        (["junk.onnx"], "junk.onnx is not an ONNX model that runs here"),
        (["{small}", "--top", "0"], "--top 0 must be 1 at least"),
        (["{small}", "--data", "fashion_mnist"], "was trained on mnist; leave --data out"),
        (["{exported}", "--data", "fashion_mnist"], "was trained on mnist; leave --data out"),
        (["bare.pt"], "bare.pt doesn't say what it was trained on, and there is no record beside it; give --data"),
    ],
)
def test_a_wrong_model_or_option_is_refused_in_one_line(
    command: Command, small: Path, onnx_file: str, scans: list[str], words: list[str], said: str
) -> None:
    Path("junk.onnx").write_text("junk")
    write_bare_model(small, Path("bare.pt"))
    given = [word.format(small=small, exported=onnx_file, picture=scans[0]) for word in words]
    ended = command(given[0], scans[0], *given[1:], main=main)
    assert (ended.status, ended.out, len(ended.err.splitlines())) == (1, "", 1)
    assert ended.err.startswith("error: ")
    assert said in ended.err


def test_a_bare_model_is_told_its_data(command: Command, place: Path, small: Path, scans: list[str]) -> None:
    write_bare_model(small, place / "bare.pt")
    for data, expected in (("mnist", "7"), ("fashion_mnist", "Sneaker"), ("kmnist", "ya")):
        ended = command("bare.pt", scans[0], "--data", data, "--top", "1", main=main)
        assert ended.status == 0
        assert ended.out.split("  ")[1].strip().startswith(expected)


def test_a_missing_onnx_runtime_is_named_with_its_extra(
    command: Command, onnx_file: str, scans: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ended = command(onnx_file, scans[0], main=main)
    expected = "error: an .onnx file needs the package onnxruntime; pip install 'tinysweep[onnx]'\n"
    assert (ended.status, ended.err) == (1, expected)


def test_an_exported_model_runs_and_the_commands_tell_their_help_without_torch(
    onnx_file: str, scans: list[str]
) -> None:
    code = (
        "import sys; from tinysweep.commands import export, predict; "
        "predict.predict(predict.build_parser().parse_args(sys.argv[1:])); "
        "print({'torch', 'pandas', 'matplotlib', 'optuna'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code, onnx_file, *scans], check=True, capture_output=True)
    assert ended.stdout.splitlines()[3:] == [b"set()"]
