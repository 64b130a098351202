"""What people see: tables whose columns stand under each other, and a bar where somebody is watching."""

import io
import re
import subprocess
import sys

import pytest

from tinysweep import console
from tinysweep.console import Progress, clean, first_names, fitting_table, table, wrap


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_stand_under_each_other_whatever_letters_they_hold() -> None:
    rows = [("name", "live\nbytes"), ("日本", "5"), ("[red]é", "1,000")]
    assert table(rows, "lr").split("\n") == [
        "         live",
        "name    bytes",
        "日本        5",
        "[red]é  1,000",
    ]


def test_a_rule_spans_the_table() -> None:
    rows = [("a", "b"), ("1", "22"), ("1", "22")]
    assert table(rows, "rr", rules=(0, 1)).split("\n") == ["a   b", "-----", "1  22", "-----", "1  22"]


def test_however_wide_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert table([("x" * 500, "end")], "ll") == "x" * 500 + "  end"


@pytest.mark.parametrize("cells", [10, 17, 18, 40])
def test_a_fitting_table_names_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    monkeypatch.setenv("COLUMNS", str(cells))
    rows = [("name", "live\nbytes", "MACs"), ("ab", "5", "1,000")]
    found = fitting_table(rows, "lrr", "ask for it").split("\n")
    assert max(map(len, found)) <= max(cells, len("name  bytes"))
    fits = cells >= len("name  bytes   MACs")
    assert ("no room for MACs; ask for it" in " ".join(" ".join(found).split())) is not fits
    assert ("1,000" in found[-1]) is fits


def test_words_keep_to_the_terminal_and_to_one_line_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "word " * 30
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "\n" not in wrap(words)
    monkeypatch.setenv("COLUMNS", "20")
    assert max(map(len, wrap(words, "  ", more="    ").split("\n"))) <= 20


def test_of_many_names_the_first_few_are_listed() -> None:
    assert first_names(list("abcd")) == "a, b, c, d"
    assert first_names(list("abcdef")) == "a, b, c, d and 2 more"


def test_clean_text_moves_no_cursor() -> None:
    assert clean("\x1b[31mred\x1b[0m\r\x07\u202e\n") == "[31mred[0m"


def test_without_a_terminal_progress_is_lines_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, "trials") as progress:
        progress.print("[bold]one[/bold]")
        progress.describe("best 90%")
        progress.advance()
        progress.print("two")
    assert capsys.readouterr() == ("[bold]one[/bold]\ntwo\n", "")


def test_at_a_terminal_a_bar_counts_on_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(10, "trials", initial=3) as progress:
        assert "3/10" in terminal.getvalue()
        assert "-:--:--" in terminal.getvalue(), "what was there before says nothing of the pace"
        progress.print("a line " * 30)
        progress.describe("best [90%]")
        progress.advance()
        drawn = terminal.getvalue()
        assert "4/10" in drawn
        assert "best [90%]" in drawn
        assert "0:00:0" in drawn.rsplit("best", 1)[1], "one is enough to tell the time that is left"
    assert capsys.readouterr().out == "a line " * 30 + "\n", "standard output may lead to a file"


def test_a_line_on_the_terminal_of_the_bar_stands_above_it_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    with Progress(None, "runs") as progress:
        progress.print("[bold] " * 40)
    assert "[bold] " * 40 + "\n" in terminal.getvalue()


def bar_lengths(drawn: str) -> list[int]:
    """How much of the bar is done each time that it was drawn, in cells of a terminal."""
    coloured = re.sub(r"\x1b\[90m.*?\x1b\[0m", "", drawn)  # what is still to come is grey
    return [line.count("━") for line in coloured.split("\r")]


def test_a_bar_moves_between_whole_numbers_and_then_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(console, "SELDOM", 0.0)
    monkeypatch.setenv("TERM", "xterm-256color")
    with Progress(2, "epochs") as progress:
        for tenth in range(1, 10):
            progress.reach(tenth / 10)
        drawn = terminal.getvalue()
        assert "0/2" in drawn.splitlines()[-1]
        assert "1/2" not in drawn, "an epoch counts once it has ended"
        assert "-:--:--" not in drawn.rsplit("\r", 1)[1]
    lengths = bar_lengths(drawn)
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 5


def test_a_bar_that_is_told_often_is_drawn_seldom_but_not_left_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(10, "epochs") as progress:
        for step in range(1, 10_001):
            progress.reach(step / 1000)
        assert terminal.getvalue().count("\r") < 10
        assert "10/10" in terminal.getvalue()


def test_what_others_print_stands_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    with Progress(10, "epochs"):
        print("a line of the user's")
    assert re.search(r"(\A|\r|\n|\x1b\[2K)a line of the user's\n", terminal.getvalue())


def test_there_is_no_bar_where_none_is_meant_to_be_or_a_notebook_gives_its_commands_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(10, "trials", watched=False) as progress:
        progress.reach(1.5)
        progress.print("a line")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    with Progress(10, "trials") as progress:
        progress.advance()
        progress.print("a line")
    assert (capsys.readouterr().out, terminal.getvalue()) == ("a line\n" * 2, "")


def test_no_command_waits_for_rich_to_start() -> None:
    program = (
        "import sys, tinysweep.console\n"
        "with tinysweep.console.Progress(1, 'runs') as progress: progress.print('a line')\n"
        "print('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "a line\nFalse\n"
