"""What is exported is the model: the same answers, in files that stand on their own; or it is refused."""

import contextlib
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import Command, made_images
from small_model import trained_run
from tinysweep.commands.export import build_parser, export, main
from tinysweep.data.catalogue import DATA_SETS, DataShape
from tinysweep.data.load import load, load_test
from tinysweep.deploy import export_files
from tinysweep.deploy.export_files import Measured, agreement, warn_of_loss
from tinysweep.deploy.onnx_model import convert, folded, quantise
from tinysweep.deploy.onnx_session import OnnxModel
from tinysweep.errors import ConfigError, DataError
from tinysweep.network.build import build_model
from tinysweep.run.labels import LabelNames
from tinysweep.run.saved import read, save
from tinysweep.settings.schema import Activation, DataConfig, DataName, DropoutAt, Family, Head, ModelConfig
from tinysweep.training.loop import Normalise, Result

pytestmark = pytest.mark.filterwarnings("error")

MNIST = DataShape(1, 28, 10)
DIGITS = DATA_SETS[DataName.mnist].classes
LABELS = LabelNames(DataName.mnist, 1, 28, DIGITS)


@dataclass
class Export:
    """What a run's export printed, and where the files lie."""

    folder: Path
    out: str
    err: str

    def session(self, name: str = "model.onnx") -> OnnxModel:
        return OnnxModel((self.folder / name).read_bytes(), self.folder / name)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, mnist_root: Path) -> Path:
    return trained_run(tmp_path_factory, mnist_root)


@pytest.fixture(scope="module")
def exported(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    folder = tmp_path_factory.mktemp("exported") / "new"
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        export(build_parser().parse_args([str(small), "--out", str(folder)]))
    return Export(folder, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def digits(mnist_root: Path) -> torch.Tensor:
    """Test images (200, 1, 28, 28)."""
    return load_test(DataConfig(root=str(mnist_root))).pixels[:200]


@pytest.fixture(autouse=True)
def _logging_is_left_as_it_was() -> Iterator[None]:
    before = logging.root.manager.disable
    yield
    assert logging.root.manager.disable == before


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly any time is spent measuring time."""
    monkeypatch.setattr(export_files, "TIMED", 3)
    monkeypatch.setattr(export_files, "WARM_UP", 1)


def untrained(config: ModelConfig, shape: DataShape = MNIST, seed: int = 0) -> nn.Module:
    """A model whose batch norms are as far from the identity as those of a trained one."""
    torch.manual_seed(seed)
    mean, std = (0.13, 0.4, 0.5)[: shape.channels], (0.31, 0.2, 0.3)[: shape.channels]
    model = nn.Sequential(Normalise(mean, std), build_model(config, shape))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor, low, high in (
                (module.weight, 0.5, 2.0),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -1.0, 1.0),
                (module.running_var, 0.3, 3.0),
            ):
                nn.init.uniform_(tensor, low, high)
    return model.eval()


def torch_logits(model: nn.Module, pixels: torch.Tensor) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        return model(pixels.float()).numpy()  # type: ignore[no-any-return]


# ---- the same model

CASES = [
    ModelConfig(family=Family.plain, head=Head.linear, dropout=0.3),
    ModelConfig(family=Family.plain, head=Head.gap, activation=Activation.silu, hidden=9, bias=True),
    ModelConfig(family=Family.plain, head=Head.spatial, padding=False, stem_padding=True, dropout=0.3),
    ModelConfig(family=Family.plain, head=Head.linear, hidden=9, pool_before_norm=True, bottleneck=0.5),
    ModelConfig(family=Family.residual, head=Head.linear, activation=Activation.silu, hidden=9, crop=2),
    ModelConfig(family=Family.residual, head=Head.gap, dropout=0.3, dropout_at=DropoutAt.block),
    ModelConfig(family=Family.residual, head=Head.spatial, activation=Activation.silu, bias=True),
    ModelConfig(family=Family.separable, head=Head.linear, bias=True, dropout=0.3, dropout_at=DropoutAt.stage),
    ModelConfig(family=Family.separable, head=Head.gap, activation=Activation.silu),
    ModelConfig(family=Family.separable, head=Head.spatial, hidden=9, stem_padding=True),
]


@pytest.mark.parametrize("config", CASES, ids=lambda config: f"{config.family}-{config.head}-{config.activation}")
def test_every_kind_of_model_gives_the_same_logits_as_in_pytorch(
    config: ModelConfig, digits: torch.Tensor
) -> None:
    model = untrained(replace(config, width=6, depth=[1, 1], growth=1.0))
    expected = torch_logits(model, digits)
    content = convert(folded(model), LABELS)
    exported = OnnxModel(content, Path("model.onnx"))
    found = exported.logits(digits.numpy())
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    operators = {node.op_type for node in onnx.load_from_string(content).graph.node}
    assert not operators & {"BatchNormalization", "Dropout"}
    small = OnnxModel(quantise(content, digits.numpy(), LABELS), Path("model.int8.onnx")).logits(digits.numpy())
    assert np.corrcoef(small.ravel(), expected.ravel())[0, 1] > 0.98


def test_folding_changes_neither_the_model_given_nor_its_answers(digits: torch.Tensor) -> None:
    model = untrained(ModelConfig(width=6, depth=[1, 2]))
    before, weights = (
        torch_logits(model, digits),
        {key: value.clone() for key, value in model.state_dict().items()},
    )
    slim = folded(model)
    np.testing.assert_allclose(torch_logits(slim, digits), before, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in slim.modules())
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_a_norm_after_pooling_is_folded_unless_it_turns_the_order_of_a_channel_round(digits: torch.Tensor) -> None:
    config = ModelConfig(family=Family.plain, width=6, depth=[1, 1], head=Head.gap, pool_before_norm=True)
    model = untrained(config)
    turned = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    with torch.no_grad():
        turned.weight[2] = -0.7
    expected, content = torch_logits(model, digits), convert(folded(model), LABELS)
    found = OnnxModel(content, Path("model.onnx")).logits(digits.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    kept = [module for module in folded(model).modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.num_features for norm in kept] == [6]
    small = OnnxModel(quantise(content, digits.numpy(), LABELS), Path("model.int8.onnx")).logits(digits.numpy())
    assert np.corrcoef(small.ravel(), expected.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx"])
def test_any_number_of_images_at_a_time_gives_the_same(exported: Export, digits: torch.Tensor, name: str) -> None:
    session = exported.session(name)
    together = session.logits(digits.numpy())
    for size in (1, 7, 64):
        apart = np.concatenate([session.logits(part.numpy()) for part in digits.split(size)])
        np.testing.assert_allclose(apart, together, rtol=1e-3, atol=1e-3)


# ---- the export of a trained run


def test_the_float_file_names_every_test_image_as_pytorch_does(
    exported: Export, small: Path, mnist_root: Path
) -> None:
    test = load_test(DataConfig(root=str(mnist_root)))
    expected = torch_logits(read(small).model, test.pixels).argmax(1)
    assert (exported.session().logits(test.pixels.numpy()).argmax(1) == expected).all()
    assert "the same class as PyTorch on all 10,000 test images, logits at most " in exported.out


def test_int8_is_less_than_half_as_large_and_loses_at_most_0_2_points(exported: Export, mnist_root: Path) -> None:
    test = load_test(DataConfig(root=str(mnist_root)))
    correct = {}
    for name in ("model.onnx", "model.int8.onnx"):
        predicted = exported.session(name).logits(test.pixels.numpy()).argmax(1)
        correct[name] = float((predicted == test.labels.numpy()).mean())
    assert correct["model.onnx"] > 0.95
    assert correct["model.int8.onnx"] >= correct["model.onnx"] - 0.002
    content = onnx.load(exported.folder / "model.int8.onnx")
    kinds = {weights.name: (weights.data_type, list(weights.dims)) for weights in content.graph.initializer}
    quantised = [kind for name, kind in kinds.items() if name.endswith(".weight_quantized") and len(kind[1]) == 4]
    assert quantised
    assert all(kind == onnx.TensorProto.INT8 for kind, _ in quantised)
    scales = [dims for name, (_, dims) in kinds.items() if name.endswith(".weight_scale") and dims]
    assert scales, "a scale for each channel"


def test_the_table_tells_size_parameters_accuracy_and_time_of_each_file(exported: Export, small: Path) -> None:
    lines = exported.out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.startswith("model.")}
    assert list(rows) == ["model.pt", "model.onnx", "model.int8.onnx"]
    for name, row in rows.items():
        file = (small if name == "model.pt" else exported.folder) / name
        assert row[1] == f"{file.stat().st_size:,}"
        assert 95 < float(row[3].rstrip("%")) < 100
        assert float(row[4]) > 0
    trained = sum(weights.numel() for weights in read(small).model.parameters())
    assert rows["model.pt"][2] == f"{trained:,}"
    assert int(rows["model.onnx"][2].replace(",", "")) < trained
    assert "calibrated on 1,000 training images" in exported.out
    assert "nothing was chosen by it" in exported.out
    assert exported.err == ""


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx"])
def test_a_file_stands_on_its_own(exported: Export, name: str) -> None:
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
    assert exported.session(name).labels == LABELS
    raw = (exported.folder / name).read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in raw
    assert b".py" not in raw


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
    save(folder / "model.pt", Result(untrained(config, shape), [], 0.0), config, shape, data)
    return folder


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_of_own_images_goes_with_the_names_of_its_classes(
    command: Command, place: Path, channels: int
) -> None:
    images = write_images(place / "photos", channels)
    folder = leave_model(place / "run", images, channels)
    ended = command(str(folder), "--calibration", "50", main=main)
    assert (ended.status, ended.err) == (0, "")
    assert "calibrated on 16 training images" in ended.out, "as many as there are"
    pixels = load_test(read(folder).data or DataConfig()).pixels
    for name in ("model.onnx", "model.int8.onnx"):
        session = OnnxModel((folder / name).read_bytes(), folder / name)
        assert session.labels == LabelNames(DataName.image_folder, channels, 16, ("cat", "dog"))
    exported = OnnxModel((folder / "model.onnx").read_bytes(), folder).logits(pixels.numpy())
    np.testing.assert_allclose(exported, torch_logits(read(folder).model, pixels), rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("quick")
def test_images_that_were_moved_are_found_by_root(command: Command, place: Path) -> None:
    images = write_images(place / "photos", 1)
    folder = leave_model(place / "run", images, 1)
    moved = images.rename(place / "moved")
    ended = command(str(folder / "model.pt"), "--no-int8", main=main)
    assert ended.status == 1
    assert one_line(ended.err)
    assert "--root FOLDER" in ended.err
    ended = command(str(folder), "--no-int8", "--root", str(moved), "--out", "a/b", main=main)
    assert ended.status == 0
    assert [path.name for path in (place / "a" / "b").iterdir()] == ["model.onnx"]
    assert not (folder / "model.onnx").exists()


def one_line(text: str) -> bool:
    """Whether this is an error of one line."""
    return text.startswith("error: ") and len(text.splitlines()) == 1


@pytest.mark.usefixtures("quick")
def test_a_bare_model_needs_to_be_told_its_data(
    command: Command, place: Path, small: Path, mnist_root: Path
) -> None:
    (place / "kept.pt").write_bytes((small / "model.pt").read_bytes())
    content = torch.load(place / "kept.pt")
    torch.save({key: content[key] for key in ("model", "shape", "weights")}, place / "kept.pt")
    ended = command("kept.pt", main=main)
    assert (ended.status, one_line(ended.err)) == (1, True)
    assert "give --data NAME (mnist, fashion_mnist, kmnist, image_folder)" in ended.err
    assert "--root FOLDER" in command("kept.pt", "--data", "image_folder", main=main).err
    images = write_images(place / "photos", 1)
    ended = command("kept.pt", "--data", "image_folder", "--root", str(images), main=main)
    assert (
        "kept.pt is for 1x28x28 images of 10 classes, but data=image_folder has 1x28x28 images of 2" in ended.err
    )
    assert not list(place.glob("*.onnx"))
    ended = command("kept.pt", "--data", "mnist", "--root", str(mnist_root), "--no-int8", main=main)
    assert ended.status == 0
    assert [path.name for path in place.glob("*.onnx")] == ["kept.onnx"]


def test_a_record_beside_an_older_model_tells_its_data(small: Path, tmp_path: Path) -> None:
    content = torch.load(small / "model.pt")
    older = {key: content[key] for key in ("model", "shape", "weights")}
    torch.save(older, tmp_path / "model.pt")
    for name in ("record.json", "config.yaml"):
        (tmp_path / name).write_bytes((small / name).read_bytes())
        data = read(tmp_path).data
        assert data
        assert (data.name, data.limit, data.validation) == (DataName.mnist, 8000, 0)
        (tmp_path / name).unlink()
    assert read(tmp_path).data is None


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
    assert (ended.status, one_line(ended.err), ended.out) == (1, True, "")
    assert said in ended.err


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_its_extra(
    command: Command, small: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    ended = command(str(small), main=main)
    expected = f"error: tinysweep-export needs the package {package}; pip install 'tinysweep[onnx]'\n"
    assert (ended.status, ended.err) == (1, expected)


def test_help_is_there_without_torch() -> None:
    code = (
        "import sys; from tinysweep.commands import export, predict; "
        "sys.exit(any(m in sys.modules for m in sys.argv[1:]))"
    )
    heavy = ["torch", "onnxruntime", "pandas", "matplotlib", "torchvision"]
    assert subprocess.run([sys.executable, "-c", code, *heavy], check=False).returncode == 0


# ---- what isn't the same model is not left behind


@pytest.mark.usefixtures("quick")
def test_a_file_that_differs_from_pytorch_is_not_written(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = leave_model(place / "run", write_images(place / "photos", 1), 1)
    other = untrained(ModelConfig(width=4, depth=[1, 1]), DataShape(1, 16, 2), seed=1)
    monkeypatch.setattr(export_files, "convert", lambda _, labels: convert(folded(other), labels))
    ended = command(str(folder), main=main)
    assert (ended.status, one_line(ended.err)) == (1, True)
    assert "model.onnx was not written, as it must equal the model in PyTorch: another class on " in ended.err
    assert [path.name for path in folder.iterdir()] == ["model.pt"]


def test_logits_agree_up_to_rounding_and_no_further() -> None:
    reference = np.array([[1.0, 20.0, -3.0], [4.0, 3.0, 2.0]], np.float32)
    file = Path("model.onnx")
    assert "on all 2 test images, logits at most 1.0e-03 apart" in agreement(file, reference + 0.001, reference)
    with pytest.raises(DataError, match=r"another class on 0 of the 2 test images, logits up to 0\.5 apart"):
        agreement(file, reference + 0.5, reference)
    swapped = reference[:, [0, 2, 1]]
    with pytest.raises(DataError, match="another class on 1 of the 2 test images"):
        agreement(file, swapped, reference)
    for wrong in (np.nan, np.inf):
        spoilt = reference.copy()
        spoilt[0, 2] = wrong
        with pytest.raises(DataError, match="not written"):
            agreement(file, spoilt, reference)


@pytest.mark.parametrize(("small_accuracy", "warned"), [(0.9932, False), (0.991, True), (0.999, False)])
def test_more_than_0_2_points_lost_to_int8_are_warned_of(
    small_accuracy: float, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = Measured("model.onnx", 1, 1, 0.9950, 0.1, "ONNX Runtime")
    warn_of_loss(plain, replace(plain, accuracy=small_accuracy))
    said = capsys.readouterr().err
    assert bool(said) == warned
    assert not warned or said.startswith("warning: int8 loses 0.40 points of test accuracy (99.50% to 99.10%)")


def test_a_file_of_another_origin_is_refused(tmp_path: Path) -> None:
    content = onnx.load_from_string(convert(folded(untrained(ModelConfig(width=2, depth=[1]))), LABELS))
    for metadata in ({}, {"tinysweep": "{}"}, {"tinysweep": "no JSON"}, {"tinysweep": json.dumps([1])}):
        content.ClearField("metadata_props")
        for key, value in metadata.items():
            content.metadata_props.add(key=key, value=value)
        with pytest.raises(DataError, match="give a file that tinysweep-export wrote"):
            OnnxModel(content.SerializeToString(), tmp_path / "model.onnx")
    for junk in (b"", b"junk", content.SerializeToString()[:500]):
        with pytest.raises(DataError, match="is not an ONNX model that runs here") as caught:
            OnnxModel(junk, tmp_path / "model.onnx")
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("quick")
def test_the_quantiser_sees_training_images_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray[Any, Any]] = []

    def note(content: bytes, pixels: np.ndarray[Any, Any], labels: LabelNames) -> bytes:
        seen.append(pixels)
        return quantise(content, pixels, labels)

    monkeypatch.setattr(export_files, "quantise", note)
    folder = leave_model(tmp_path / "run", write_images(tmp_path / "photos", 1), 1)
    data = read(folder).data
    assert data
    export_files.export_files(read(folder), data, tmp_path, 10)
    assert (seen[0] == load(data).train.pixels[:10].numpy()).all()


def test_a_wrong_set_of_data_is_refused_before_anything_is_written(small: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "photos", 3)
    data = DataConfig(DataName.image_folder, root=str(images), image_size=28, colour=True)
    with pytest.raises(
        ConfigError, match="is for 1x28x28 images of 10 classes, but data=image_folder has 3x28x28"
    ):
        export_files.export_files(read(small), data, tmp_path, 0)
