"""Figures, refusals and help are as they were recorded in tests/golden/."""

import subprocess
import sys

import pytest

import golden


@pytest.fixture(scope="module")
def checked(request: pytest.FixtureRequest) -> str:
    """What the check says of the parts whose tests are to run. One process, as imports take most of its start, and
    not this one, as it forks, which the threads of other tests wouldn't survive."""
    parts = [part for part in golden.PARTS if any(f"[{part}]" in item.name for item in request.session.items)]
    words = [sys.executable, golden.__file__, "check", *parts]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr


@pytest.mark.parametrize("part", golden.PARTS)
@pytest.mark.slow
@pytest.mark.usefixtures("mnist_root")
def test_a_part_is_as_it_was_recorded(part: str, checked: str) -> None:
    if f"{part}: recorded on another kind of machine" in checked:
        pytest.skip("figures are compared on a machine like the one that recorded them")
    assert f"{part}: as it was recorded\n" in checked, checked
