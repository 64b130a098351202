"""The final in a report: its figures as they were left, the winner's confusions, and images it errs on."""

import base64
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import made_study as made
from conftest import made_images
from report_reader import read_page
from tinysweep.data.load import load_test
from tinysweep.errors import DataError
from tinysweep.final.results import read_final
from tinysweep.report.mistakes import LARGEST_SIDE, Predictions, png_address, read_predictions
from tinysweep.report.page import draw, find
from tinysweep.results.view import StudyView
from tinysweep.settings.schema import DataConfig

pytestmark = pytest.mark.usefixtures("quiet_optuna")

LABELS = [0, 1, 2, 1, 0]
WRONG = [{0: 1, 3: 2}, {3: 2}, {3: 0, 4: 1}]


def words(view: StudyView) -> str:
    return read_page(view).words


def confusion(view: StudyView) -> Any:
    return draw(view, find(view))["confusion"]


@pytest.fixture
def view(tmp_path: Path) -> StudyView:
    """A study whose best trial is 3, and whose final chose trial 2."""
    made.finish(tmp_path, LABELS, WRONG)
    return made.view(tmp_path, [made.completed(number, 0.9 + number / 100, 500) for number in range(4)])


def test_the_final_is_told_with_every_seed(view: StudyView) -> None:
    text = words(view)
    assert "test accuracy 66.67% ± 0.04 over 3 seeds of trial 2" in text
    assert "Chosen on validation images." in text
    assert (
        "trial 2 winner 1,234 66.67% ± 0.04 66.57 – 66.77% 60.00%, 80.00%, 60.00% 0.0200 ± 0.0004 56,789" in text
    )
    assert "era_seed baseline" in text
    assert "trial 2 against era_seed (baseline) +0.16 +0.06 to +0.26 < 0.001 – the winner is better" in text
    assert "Test: a paired test." in text
    assert "trial 2 chosen 1,234 99.10% – 99.10%, 99.10%, 99.10% 0.0300 ± 0.0004" in text
    assert "Dropped out model failed in with seed reason trial 9 validation 1 diverged" in text


def test_the_trial_that_the_final_chose_is_the_winner_of_the_page(view: StudyView) -> None:
    assert find(view).winner == 2
    assert "The star is trial 2, which won the final." in words(view)
    made.finish(view.folder, LABELS, WRONG, number=3)
    assert "The star is trial 3, the best by validation accuracy." in words(view)


def test_there_may_be_no_final(tmp_path: Path) -> None:
    assert read_final(tmp_path) is None
    assert read_predictions(tmp_path) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", ""),
        ("[", ""),
        ("[]", ""),
        ("3", ""),
        ('{"study": "s", "choice": "x", "confidence": "y"}', ""),
        ('{"study": "s", "choice": "x", "confidence": 0.9}', " .it lacks 'candidates'"),
    ],
)
def test_a_damaged_final_is_named_with_what_it_lacks_and_the_rest_is_told(
    view: StudyView, content: str, said: str
) -> None:
    (view.folder / "final/final.json").write_text(content)
    with pytest.raises(DataError, match=f"final/final.json isn't as tinysweep-final writes it{said}"):
        read_final(view.folder)
    assert find(view).winner == 3
    text = words(view)
    assert "run tinysweep-final again" in text
    assert "Trials, ranked" in text


def test_a_final_of_one_seed_is_told_without_an_interval(tmp_path: Path) -> None:
    made.finish(tmp_path, LABELS, [{0: 1}])
    text = words(made.view(tmp_path, [made.completed(2, 0.9, 5)]))
    assert "test accuracy 80.00% one seed of trial 2" in text
    assert "trial 2 winner 1,234 80.00% – 80.00% 0.0200 56,789" in text


# ---- predictions


def test_confusions_are_summed_over_seeds_and_what_most_err_on_comes_first(view: StudyView) -> None:
    predictions = read_predictions(view.folder)
    assert predictions == Predictions(LABELS, {"0": [1, 1, 2, 2, 0], "1": [0, 1, 2, 2, 0], "2": [0, 1, 2, 0, 1]})
    assert predictions.confusion() == [[4, 2, 0], [1, 3, 2], [0, 0, 3]]
    assert [list(row) for row in confusion(view).data[0].z] == [[None, 2, 0], [1, None, 2], [0, 0, None]]
    assert predictions.mistakes() == [3, 0, 4]
    assert "3 of 5 test images are misclassified by at least one of 3 seeds, 1 by every one." in words(view)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("index,label,winner-seed-0\n0,x,1\n", "isn't as tinysweep-final writes it"),
        ("index,label,winner-seed-0\n1,0,1\n", "its column index isn't 0, 1, 2"),
        ("index,label,winner-seed-0\n0,0,-1\n", "it has a class that isn't one of 0 to 999"),
        ("index,label,winner-seed-0\n0,5000,1\n", "it has a class that isn't one of 0 to 999"),
        ("index,winner-seed-0\n0,1\n", "it lacks 'label'"),
        ("index,label,winner-seed-0\n0,1\n", "isn't as tinysweep-final writes it"),
        ("index,label\n0,1\n", "holds no predictions of the winner"),
        ("", "holds no predictions of the winner"),
    ],
)
def test_predictions_that_cant_be_used_are_said_to_be_so(view: StudyView, content: str, said: str) -> None:
    (view.folder / "final/predictions.csv").write_text(content)
    assert said in words(view)


# ---- images


def test_a_winner_may_make_no_mistake_or_more_than_can_be_shown(tmp_path: Path, mnist_root: Path) -> None:
    labels = load_test(DataConfig(root=str(mnist_root))).labels.tolist()
    made.finish(tmp_path, labels, [{}, {}])
    made.leave(tmp_path, 2, [0.5], root=str(mnist_root))
    view = made.view(tmp_path, [made.completed(2, 0.9, 5)])
    assert "Not one of 10,000 test images was misclassified." in words(view)
    made.finish(tmp_path, labels, [{index: (labels[index] + 1) % 10 for index in range(90)}])
    page = read_page(view)
    assert page.tags.count("img") == 60
    assert "The first 60 are shown." in page.words


def decoded(uri: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_the_images_shown_are_those_that_were_misclassified(tmp_path: Path, mnist_root: Path) -> None:
    images = load_test(DataConfig(root=str(mnist_root)))
    labels = images.labels.tolist()
    wrong = [{17: (labels[17] + 1) % 10, 9_000: (labels[9_000] + 1) % 10}, {9_000: (labels[9_000] + 2) % 10}]
    made.finish(tmp_path, labels, wrong)
    made.leave(tmp_path, 2, [0.5], root=str(mnist_root))
    view = made.view(tmp_path, [made.completed(2, 0.9, 5)])
    page = " ".join(read_page(view).html.split())
    pictures = re.findall(r'<img src="([^"]*)" alt="test image (\d+)', page)
    assert [int(index) for _, index in pictures] == [9_000, 17]
    for uri, index in pictures:
        assert (decoded(uri) == images.pixels[int(index), 0].numpy()).all()
    true, first, second = labels[9_000], wrong[0][9_000], wrong[1][9_000]
    assert f"{true} → <b>{first}</b>, <b>{second}</b><small>#9000</small>" in page
    assert f"{labels[17]} → <b>{wrong[0][17]}</b>, {labels[17]}<small>#17</small>" in page


def test_images_that_are_elsewhere_or_others_are_not_shown(tmp_path: Path, mnist_root: Path) -> None:
    made.finish(tmp_path, LABELS, WRONG)
    view = made.view(tmp_path, [made.completed(2, 0.9, 5)])
    assert "They can't be shown: trials/2/record.json is missing or damaged." in words(view)
    made.leave(tmp_path, 2, [0.5], root=str(tmp_path / "nothing"))
    assert "They can't be shown: " in words(view)
    assert "download is off" in words(view)
    assert not (tmp_path / "nothing").exists()
    made.leave(tmp_path, 2, [0.5], root=str(mnist_root))
    assert "aren't those that the predictions were made for" in words(view)
    assert "<img" not in read_page(view).html
    empty = dataclasses.replace(view, trials=[])
    made.finish(tmp_path, LABELS, WRONG, number=0)
    (tmp_path / "final/final.json").unlink()
    assert "no trial has completed that says which data it was" in words(empty)


def test_classes_of_the_users_own_images_have_their_names(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for part in ("train", "test"):
        images = made_images(6, classes=3, size=12, channels=3)
        for number, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            file = root / part / ("ant", "<bee>", "cat")[int(label)] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file)
    made.finish(tmp_path, [0, 0, 1, 1, 2, 2], [{0: 2}])
    made.leave(tmp_path, 2, [0.5], name="image_folder", root=str(root), image_size=12, colour=True)
    view = made.view(tmp_path, [made.completed(2, 0.9, 5)])
    page = " ".join(read_page(view).html.split())
    assert "&lt;bee&gt; → <b>cat</b><small>#0</small>" in page
    assert list(confusion(view).layout.xaxis.ticktext) == sorted(["ant", "&lt;bee&gt;", "cat"])


@pytest.mark.parametrize(
    ("channels", "size", "side"), [(1, 28, 28), (3, 20, 20), (3, 224, LARGEST_SIDE), (1, 65, 64)]
)
def test_an_image_in_a_page_is_small_and_keeps_its_colours(channels: int, size: int, side: int) -> None:
    pixels = torch.randint(0, 256, (channels, size, size), dtype=torch.uint8)
    picture = decoded(png_address(pixels))
    assert picture.shape[:2] == (side, side)
    assert picture.ndim == (2 if channels == 1 else 3)
    if size == side:
        assert (picture == pixels.permute(1, 2, 0).numpy().squeeze()).all()
