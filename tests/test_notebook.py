"""What a notebook shows: docs/notebook.ipynb as committed and as a reader runs it, completion, errors, and what
becomes of an interrupted cell.

Its outputs are those of `jupyter execute docs/notebook.ipynb --inplace --NotebookClient.record_timing=False
--NotebookClient.coalesce_streams=True`, where docs/outputs holds no study from before."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parents[1] / "docs/notebook.ipynb"
TRAINED = """\
import tinysweep
config = tinysweep.compose("model.width=2", "data.limit=200", "data.validation=100", "trainer.epochs=4")
config.trainer.threads = 1
data = tinysweep.load_data(config.data)
states, curves = [], tinysweep.LiveCurves()

def told(epoch):
    curves(epoch)
    if len(states) == 2 and not told.stopped:
        told.stopped = True
        raise KeyboardInterrupt

told.stopped = False
"""
FITTED = "result = tinysweep.fit(config, data, told, states[-1] if states else None, states.append)"


def outputs(cells: list[NotebookNode]) -> list[NotebookNode]:
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]


def shown(cells: list[NotebookNode], kind: str) -> list[str]:
    """What was displayed of a kind, such as "image/png"."""
    return [output.data[kind] for output in outputs(cells) if kind in output.get("data", {})]


def printed(cells: list[NotebookNode]) -> str:
    return "".join(output.text for output in outputs(cells) if output.output_type == "stream")


def require_shown(notebook: NotebookNode) -> None:
    """Each cell left what a reader is to see, and nothing else."""
    cells = notebook.cells
    assert not [
        output for output in outputs(cells) if output.output_type == "error" or output.get("name") == "stderr"
    ]
    pictures = shown(cells, "image/png")
    assert len(pictures) == 2, "curves and digits"
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    tables = [html for html in shown(cells, "text/html") if "<table" in html]
    assert len(tables) == 2, "layers and trials"
    assert "Conv2d" in tables[0]
    assert "validation_accuracy" in tables[1]
    (bar,) = [re.sub("<.*?>", "", html) for html in shown(cells, "text/html") if "<table" not in html]
    assert re.search(r"━ 3/3 epochs \d:\d\d:\d\d", bar)
    assert "4 trials trained (4 complete)" in printed(cells)
    assert not re.search(r"\x1b|\r(?!\n)|━", printed(cells)), "a bar drawn over and over is no line to read"


def test_the_notebook_is_committed_as_it_was_run_and_tells_nothing_of_the_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    require_shown(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    text = NOTEBOOK.read_text()
    assert len(text) < 300_000
    assert not re.search(r"/(home|root|tmp|work|Users|usr|opt)/", text)


@pytest.mark.slow
def test_whoever_runs_the_notebook_sees_the_same_kinds_of_things(tmp_path: Path, mnist_root: Path) -> None:
    assert mnist_root.is_dir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    require_shown(notebook)
    assert len(list(tmp_path.glob("outputs/sweeps/small/trials/*/model.pt"))) == 4


class Kernel:
    """A notebook that is being written."""

    def __init__(self, client: NotebookClient) -> None:
        self.client = client

    def run(self, source: str) -> NotebookNode:
        """A new cell, once it has been run."""
        cell: NotebookNode = nbformat.v4.new_code_cell(source)
        self.client.nb.cells.append(cell)
        self.client.execute_cell(cell, len(self.client.nb.cells) - 1)
        return cell

    def complete(self, typed: str) -> set[str]:
        """What Tab offers after this."""
        cell = self.run(f"""
from IPython.core.completer import provisionalcompleter
with provisionalcompleter():
    found = get_ipython().Completer.completions({typed!r}, {len(typed)})
    print(*(each.text.rpartition(".")[2] for each in found))""")
        return set(printed([cell]).split())


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory, mnist_root: Path) -> Iterator[Kernel]:
    assert mnist_root.is_dir()
    resources = {"metadata": {"path": str(tmp_path_factory.mktemp("kernel"))}}
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=300, allow_errors=True, resources=resources)
    with client.setup_kernel():
        yield Kernel(client)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("tinysweep.", {"compose", "fit", "Config", "LiveCurves"}),
        ("config.", {"trainer", "model", "budget"}),
        ("config.trainer.", {"epochs", "seed"}),
        ("tinysweep.compose().trainer.", {"epochs", "seed"}),
        ("tinysweep.Config().model.", {"width", "depth"}),
    ],
)
def test_tab_completes_settings(kernel: Kernel, typed: str, offered: set[str]) -> None:
    kernel.run("import tinysweep\nconfig = tinysweep.compose()")
    assert offered <= kernel.complete(typed)


@pytest.mark.slow
def test_a_wrong_value_is_told_in_one_line(kernel: Kernel) -> None:
    cell = kernel.run("import tinysweep\ntinysweep.Config().trainer.epochs = 0")
    (error,) = cell.outputs
    assert error.traceback == [
        "ConfigError: trainer.epochs=0 must lie in [1, 100000] (passes over the training images)"
    ]


@pytest.mark.slow
def test_a_fit_that_was_interrupted_goes_on_when_its_cell_is_run_again(kernel: Kernel) -> None:
    kernel.run(TRAINED)
    first, second = kernel.run(FITTED), kernel.run(FITTED)
    assert [output.get("ename") for output in outputs([first])][-1] == "KeyboardInterrupt"
    for cell in (first, second):
        assert len(shown([cell], "image/png")) == 1, "the curves of each epoch stand in place of those before"
    assert "4/4 epochs" in re.sub("<.*?>", "", "".join(shown([second], "text/html")))
    asked = kernel.run("[len(states), [epoch.epoch for epoch in result.history], len(curves.history)]")
    assert shown([asked], "text/plain") == ["[4, [1, 2, 3, 4], 4]"]


@pytest.mark.slow
def test_without_a_bar_a_cell_shows_nothing(kernel: Kernel) -> None:
    kernel.run(TRAINED)
    assert kernel.run("result = tinysweep.fit(config, data, progress=False)").outputs == []
