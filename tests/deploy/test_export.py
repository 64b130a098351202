"""What is exported is the model: the same answers, in files that stand on their own; or it is refused."""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import Command, made_images
from small_model import LABELS, Export, Grey
from tinysweep.commands.export import main
from tinysweep.data.catalogue import DATA_SETS, DataShape
from tinysweep.data.load import Images, load, load_test
from tinysweep.deploy import export
from tinysweep.deploy.classifier import OnnxModel
from tinysweep.deploy.export import agreement, convert, fold_norms, quantise, warn_of_loss
from tinysweep.errors import DataError
from tinysweep.network.build import build_model
from tinysweep.run.checkpoint import read_model, save
from tinysweep.run.labels import LabelNames
from tinysweep.settings.schema import (
    Activation,
    Config,
    DataConfig,
    DataName,
    DropoutConfig,
    DropoutName,
    Family,
    Head,
    ModelConfig,
)
from tinysweep.training.loop import Normalise

pytestmark = pytest.mark.filterwarnings("error")

FILE = Path("model.onnx")


@pytest.fixture(autouse=True)
def _logging_is_left_as_it_was() -> Iterator[None]:
    before = logging.root.manager.disable
    yield
    assert logging.root.manager.disable == before


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly any time is spent measuring time."""
    monkeypatch.setattr(export, "TIMED", 3)
    monkeypatch.setattr(export, "WARM_UP", 1)


def untrained(
    config: ModelConfig,
    shape: DataShape = DATA_SETS["mnist"].shape,
    seed: int = 0,
    dropout: DropoutConfig | None = None,
) -> nn.Module:
    """A model whose batch norms are as far from the identity as those of a trained one."""
    torch.manual_seed(seed)
    mean, std = (0.13, 0.4, 0.5)[: shape.channels], (0.31, 0.2, 0.3)[: shape.channels]
    model = nn.Sequential(Normalise(mean, std), build_model(config, shape, dropout))
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
        nn.init.uniform_(norm.running_mean, -1.0, 1.0)
        nn.init.uniform_(norm.running_var, 0.3, 3.0)
    return model.eval()


def torch_logits(model: nn.Module, pixels: torch.Tensor) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        return model(pixels.float()).numpy()  # type: ignore[no-any-return]


# ---- the same model

plain, residual, separable = Family.plain, Family.residual, Family.separable
slow = pytest.mark.slow
KINDS = [
    ModelConfig(family=plain, head=Head.spatial, padding=False, stem_padding=True),
    ModelConfig(family=residual, head=Head.linear, activation=Activation.silu, hidden=9, bias=True, crop=2),
    ModelConfig(family=separable, head=Head.gap, bias=True, views=5, deskew=True),
    pytest.param(ModelConfig(family=plain, head=Head.gap, activation=Activation.silu, hidden=9), marks=slow),
    pytest.param(ModelConfig(family=plain, pool_before_norm=True, bottleneck=0.5), marks=slow),
    pytest.param(ModelConfig(family=residual), marks=slow),
    pytest.param(ModelConfig(family=residual, head=Head.spatial, activation=Activation.silu), marks=slow),
    pytest.param(ModelConfig(family=separable, head=Head.linear, stem_padding=True, views=9), marks=slow),
]


@pytest.mark.parametrize("config", KINDS)
def test_every_kind_of_model_gives_the_same_logits_as_in_pytorch(config: ModelConfig, digits: Grey) -> None:
    dropout = DropoutConfig(DropoutName.head if config.padding else DropoutName.block)
    model = untrained(replace(config, width=6, depth=[1, 1], growth=1.0), dropout=dropout)
    pixels = digits[:200, None]
    expected = torch_logits(model, torch.from_numpy(pixels))
    content = convert(fold_norms(model), LABELS)
    assert expected.std() > 0.05
    atol = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(OnnxModel(content, FILE).logits(pixels), expected, rtol=1e-4, atol=atol)
    operators = {node.op_type for node in onnx.load_from_string(content).graph.node}
    assert not operators & {"BatchNormalization", "Dropout"}
    small = OnnxModel(quantise(content, pixels, LABELS), FILE).logits(pixels)
    assert np.corrcoef(small.ravel(), expected.ravel())[0, 1] > 0.98


def test_a_norm_is_folded_unless_it_comes_after_pooling_and_turns_a_channel_round(digits: Grey) -> None:
    config = ModelConfig(family=Family.plain, width=6, depth=[1, 1], head=Head.gap, pool_before_norm=True)
    model, pixels = untrained(config), torch.from_numpy(digits[:200, None])
    turned = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    for low, kept in ((0.7, []), (-0.7, [6])):
        with torch.no_grad():
            turned.weight[2] = low
        expected, before = torch_logits(model, pixels), {k: v.clone() for k, v in model.state_dict().items()}
        slim = fold_norms(model)
        np.testing.assert_allclose(torch_logits(slim, pixels), expected, rtol=1e-4, atol=1e-3)
        assert [each.num_features for each in slim.modules() if isinstance(each, nn.BatchNorm2d)] == kept
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_rare_far_value_costs_all_others_no_precision_in_int8(digits: Grey) -> None:
    content = convert(fold_norms(untrained(ModelConfig(width=6, depth=[2], stem_kernel=3))), LABELS)
    dim = digits[:, None] // 32  # at most 7
    one_is_bright = dim.copy()
    one_is_bright[0, 0, 14, 14] = 255
    fair, spoilt = (steps(onnx.load_from_string(quantise(content, each, LABELS))) for each in (dim, one_is_bright))
    assert fair.keys() == spoilt.keys() >= {"relu"}
    assert all(spoilt[name] < 3 * step for name, step in fair.items())


def test_activations_that_never_differ_are_quantised_as_well(digits: Grey) -> None:
    blind = nn.Conv2d(1, 4, 3)
    with torch.no_grad():
        blind.weight.zero_()
        blind.bias.fill_(1e9)  # type: ignore[union-attr]
    model = nn.Sequential(blind, nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    pixels = digits[:100, None]
    content = convert(model, LABELS)
    exact = OnnxModel(content, FILE).logits(pixels)
    small = OnnxModel(quantise(content, pixels, LABELS), FILE).logits(pixels)
    np.testing.assert_allclose(small, exact, atol=0.05 * np.abs(exact).max())


def steps(model: onnx.ModelProto) -> dict[str, float]:
    """The step between two codes of each activation of a quantised model."""
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    return {node.input[0]: constants[node.input[1]].item() for node in nodes}


# ---- the export of a trained run


def test_the_files_of_a_run_name_the_test_images_as_its_model_does(
    exported: Export, model: nn.Module, mnist_test: Images
) -> None:
    expected = torch_logits(model, mnist_test.pixels).argmax(1)
    float_classes, int8_classes = (
        exported.session(name).logits(mnist_test.pixels.numpy()).argmax(1)
        for name in ("model.onnx", "model.int8.onnx")
    )
    assert (float_classes == expected).all()
    assert "the same class as PyTorch on all 10,000 test images, logits at most " in exported.out
    labels = mnist_test.labels.numpy()
    assert (float_classes == labels).mean() > 0.95
    assert (int8_classes == labels).mean() >= (float_classes == labels).mean() - 0.002
    graph = onnx.load(exported.folder / "model.int8.onnx").graph
    kinds = {weights.name: (weights.data_type, list(weights.dims)) for weights in graph.initializer}
    quantised = [kind for name, kind in kinds.items() if name.endswith(".weight_quantized") and len(kind[1]) == 4]
    assert quantised
    assert all(kind == onnx.TensorProto.INT8 for kind, _ in quantised)
    assert any(dims for name, (_, dims) in kinds.items() if name.endswith(".weight_scale")), "one a channel"


def test_the_table_tells_size_parameters_accuracy_and_time_of_each_file(
    exported: Export, small: Path, model: nn.Module
) -> None:
    rows = {line.split()[0]: line.split() for line in exported.out.splitlines() if line.startswith("model.")}
    assert list(rows) == ["model.pt", "model.onnx", "model.int8.onnx"]
    for name, row in rows.items():
        file = (small if name == "model.pt" else exported.folder) / name
        assert row[1] == f"{file.stat().st_size:,}"
        assert 95 < float(row[3].rstrip("%")) < 100
        assert float(row[4]) > 0
    trained = sum(weights.numel() for weights in model.parameters())
    assert rows["model.pt"][2] == f"{trained:,}"
    assert int(rows["model.onnx"][2].replace(",", "")) < trained
    assert "calibrated on 1,000 training images" in exported.out
    assert "nothing was chosen by it" in exported.out
    assert exported.err == ""


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx"])
def test_a_file_stands_on_its_own_and_takes_any_number_of_images(
    exported: Export, digits: Grey, name: str
) -> None:
    content = onnx.load(exported.folder / name)
    onnx.checker.check_model(content, full_check=True)
    assert [(each.domain, each.version) for each in content.opset_import if not each.domain] == [("", 20)]
    (taken,), (given,) = content.graph.input, content.graph.output
    for value, called, kind, sides in (
        (taken, "pixels", onnx.TensorProto.UINT8, [1, 28, 28]),
        (given, "logits", onnx.TensorProto.FLOAT, [10]),
    ):
        shape = value.type.tensor_type.shape.dim
        assert (value.name, value.type.tensor_type.elem_type) == (called, kind)
        assert shape[0].dim_param == "batch"
        assert [side.dim_value for side in shape[1:]] == sides
    raw = (exported.folder / name).read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in raw
    assert b".py" not in raw
    session, pixels = exported.session(name), digits[:100, None]
    assert session.labels == LABELS
    together = session.logits(pixels)
    for size in (1, 7, 64):
        parts = [session.logits(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        np.testing.assert_allclose(np.concatenate(parts), together, rtol=1e-3, atol=1e-3)


# ---- the command


def write_images(folder: Path, channels: int) -> Path:
    """An image folder of two classes, 12 images each."""
    images = made_images(24, 2, 16, channels)
    for number, (image, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        path = folder / ("cat", "dog")[int(label)] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(path)
    return folder


def leave_model(folder: Path, images: Path, channels: int) -> Path:
    """The model.pt of a run on an image folder."""
    shape, config = DataShape(channels, 16, 2), ModelConfig(width=4, depth=[1, 1], stem_kernel=3)
    data = DataConfig(DataName.image_folder, root=str(images), image_size=16, colour=channels == 3, validation=4)
    folder.mkdir(parents=True)
    save(folder / "model.pt", untrained(config, shape).state_dict(), Config(model=config, data=data), shape)
    return folder


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("channels", [pytest.param(1, marks=slow), 3])
def test_a_model_of_own_images_goes_with_the_names_of_its_classes_wherever_these_lie_by_now(
    command: Command, place: Path, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrating: list[Grey] = []

    def note(content: bytes, pixels: Grey, labels: LabelNames) -> bytes:
        calibrating.append(pixels)
        return quantise(content, pixels, labels)

    monkeypatch.setattr(export, "quantise", note)
    folder = leave_model(place / "run", write_images(place / "photos", channels), channels)
    ended = command(str(folder), "--calibration", "50", main=main)
    assert (ended.status, ended.err) == (0, "")
    assert "calibrated on 16 training images" in ended.out, "as many as there are"
    data = read_model(folder).data
    assert data
    assert (calibrating[0] == load(data).train.pixels.numpy()).all(), "no test image is calibrated on"
    for name in ("model.onnx", "model.int8.onnx"):
        session = OnnxModel((folder / name).read_bytes(), folder / name)
        assert session.labels == LabelNames(DataName.image_folder, channels, 16, ("cat", "dog"))
    pixels = load_test(data).pixels
    exported = OnnxModel((folder / "model.onnx").read_bytes(), folder).logits(pixels.numpy())
    np.testing.assert_allclose(exported, torch_logits(read_model(folder).model, pixels), rtol=1e-3, atol=1e-3)
    moved = (place / "photos").rename(place / "moved")
    ended = command(str(folder / "model.pt"), "--no-int8", "--out", "a/b", main=main)
    assert (ended.status, len(ended.err.splitlines())) == (1, 1)
    assert "--root FOLDER" in ended.err
    ended = command(str(folder), "--no-int8", "--root", str(moved), "--out", "a/b", main=main)
    assert ended.status == 0
    assert [path.name for path in (place / "a" / "b").iterdir()] == ["model.onnx"]


@pytest.mark.usefixtures("quick")
def test_a_bare_model_needs_to_be_told_its_data(
    command: Command, place: Path, small: Path, mnist_root: Path
) -> None:
    content = torch.load(small / "model.pt")
    torch.save({key: content[key] for key in ("model", "shape", "weights")}, place / "kept.pt")
    images = write_images(place / "photos", 1)
    refused = {
        (): "give --data NAME (mnist, fashion_mnist, kmnist, image_folder)",
        ("--data", "image_folder"): "--root FOLDER",
        ("--data", "image_folder", "--root", str(images)): (
            "kept.pt is for 1x28x28 images of 10 classes, but data=image_folder has 1x28x28 images of 2"
        ),
    }
    for words, said in refused.items():
        ended = command("kept.pt", *words, main=main)
        assert (ended.status, len(ended.err.splitlines())) == (1, 1)
        assert said in ended.err
    assert not list(place.glob("*.onnx"))
    ended = command("kept.pt", "--data", "mnist", "--root", str(mnist_root), "--no-int8", main=main)
    assert ended.status == 0
    assert [path.name for path in place.glob("*.onnx")] == ["kept.onnx"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such file; give the folder of a finished run"),
        (["{place}"], "model.pt: no such file; give the folder of a finished run"),
        (["{small}", "--calibration", "0"], "--calibration 0 must be 1 at least"),
        (["{small}", "--data", "kmnist"], "was trained on mnist; leave --data out"),
        (["{small}", "--out", "taken"], "can't write to taken (File exists); give another folder by --out"),
        (["{small}", "--out", "taken/below"], "can't write to taken/below (Not a directory)"),
        (["taken"], "taken is not a model saved by tinysweep"),
    ],
)
def test_what_cant_be_exported_is_refused_in_one_line(
    command: Command, place: Path, small: Path, words: list[str], said: str
) -> None:
    (place / "taken").write_text("no model")
    ended = command(*(word.format(small=small, place=place) for word in words), main=main)
    assert (ended.status, len(ended.err.splitlines()), ended.out) == (1, 1, "")
    assert said in ended.err


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_its_extra(
    command: Command, small: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    ended = command(str(small), main=main)
    expected = f"error: tinysweep-export needs the package {package}; pip install 'tinysweep[onnx]'\n"
    assert (ended.status, ended.err) == (1, expected)


# ---- what isn't the same model is not left behind


@pytest.mark.usefixtures("quick")
def test_a_file_that_differs_from_pytorch_is_not_written(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = leave_model(place / "run", write_images(place / "photos", 1), 1)
    other = untrained(ModelConfig(width=4, depth=[1, 1]), DataShape(1, 16, 2), seed=1)
    monkeypatch.setattr(export, "convert", lambda _, labels: convert(fold_norms(other), labels))
    ended = command(str(folder), main=main)
    assert (ended.status, len(ended.err.splitlines())) == (1, 1)
    assert "model.onnx was not written, as it must equal the model in PyTorch: another class on " in ended.err
    assert [path.name for path in folder.iterdir()] == ["model.pt"]


def test_logits_agree_up_to_rounding_and_no_further() -> None:
    reference = np.array([[1.0, 20.0, -3.0], [4.0, 3.0, 2.0]], np.float32)
    assert "on all 2 test images, logits at most 1.0e-03 apart" in agreement(FILE, reference + 0.001, reference)
    with pytest.raises(DataError, match=r"another class on 0 of the 2 test images, logits up to 0\.5 apart"):
        agreement(FILE, reference + 0.5, reference)
    with pytest.raises(DataError, match="another class on 1 of the 2 test images"):
        agreement(FILE, reference[:, [0, 2, 1]], reference)
    for wrong in (np.nan, np.inf):
        spoilt = reference.copy()
        spoilt[0, 2] = wrong
        with pytest.raises(DataError, match="not written"):
            agreement(FILE, spoilt, reference)


def test_more_than_0_2_points_lost_to_int8_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    for small in (0.9932, 0.999):
        warn_of_loss(0.995, small)
    assert capsys.readouterr().err == ""
    warn_of_loss(0.995, 0.991)
    said = capsys.readouterr().err
    assert said.startswith("warning: int8 loses 0.40 points of test accuracy (99.50% to 99.10%)")


def test_a_file_of_another_origin_is_refused(exported: Export) -> None:
    content = onnx.load(exported.folder / "model.onnx")
    for metadata in ({}, {"tinysweep": "{}"}, {"tinysweep": "no JSON"}, {"tinysweep": json.dumps([1])}):
        content.ClearField("metadata_props")
        for key, value in metadata.items():
            content.metadata_props.add(key=key, value=value)
        with pytest.raises(DataError, match="give a file that tinysweep-export wrote"):
            OnnxModel(content.SerializeToString(), FILE)
    for junk in (b"", b"junk", content.SerializeToString()[:500]):
        with pytest.raises(DataError, match="is not an ONNX model that runs here") as caught:
            OnnxModel(junk, FILE)
        assert "\n" not in str(caught.value)
