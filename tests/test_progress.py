import pytest

from xingaug import progress
from xingaug.progress import ProgressBar


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def every_half_minute(no_lines_of_progress, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 30)


def lines(monkeypatch, capsys, seconds_each: float, count: int = 8, **options) -> list[str]:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    for number in ProgressBar(range(count), "measuring", unit="pair", **options):
        assert number in range(count)
        clock.now += seconds_each
    return capsys.readouterr().err.splitlines()


def test_where_there_is_no_terminal_a_line_is_said_every_half_minute(monkeypatch, capsys):
    assert lines(monkeypatch, capsys, 10) == [
        "measuring: 3 of 8 pairs, 38%, 0.1/s, about 0.8 min left",
        "measuring: 6 of 8 pairs, 75%, 0.1/s, about 0.3 min left",
    ]


def test_short_work_and_work_that_is_not_to_be_shown_say_nothing(monkeypatch, capsys):
    assert lines(monkeypatch, capsys, 3) == []
    assert lines(monkeypatch, capsys, 100, shown=False) == []


def test_work_that_goes_on_counts_what_was_done_before(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    with ProgressBar(None, "rendering", total=100, initial=50) as bar:
        clock.now = 40
        bar.beside({"l1": 0.25})
        bar.update(10)
        bar.beside("kept 50.0%")
        clock.now = 50
        bar.update(10)
    assert capsys.readouterr().err == "rendering: 60 of 100 images, 60%, 0.25/s, about 2.7 min left, l1 0.250\n"


def test_on_a_terminal_it_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert list(ProgressBar(range(3), "measuring")) == [0, 1, 2]
    assert "measuring: 100%" in capsys.readouterr().err


def test_without_a_length_it_counts(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    for _ in ProgressBar(iter("ab"), "reading", unit="file"):
        clock.now += 31
    assert capsys.readouterr().err.splitlines() == ["reading: 1 files", "reading: 2 files"]
