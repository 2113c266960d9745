import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from xingaug import stats
from xingaug.errors import guarded
from xingaug.stats import StatsLog


def read_events(folder: Path) -> list[Any]:
    """All events of TensorBoard's files in a folder, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return [event for path in sorted(folder.glob("*tfevents*")) for event in EventFileLoader(str(path)).Load()]


def test_figures_are_lines_and_events(tmp_path: Path) -> None:
    log = StatsLog(tmp_path / "stats.jsonl", "step", -1)
    log.write({"step": 1, "loss": 0.5, "by": {"a": 1}}, "train")
    log.write({"step": 2, "loss": 0.25, "name": "x"}, "train")
    assert log.entries() == [{"step": 1, "loss": 0.5, "by": {"a": 1}}, {"step": 2, "loss": 0.25, "name": "x"}]
    log.close()
    events = read_events(tmp_path / "tensorboard")
    figures = [(event.step, value.tag, value.tensor.float_val[0]) for event in events for value in event.summary.value]
    assert figures == [(1, "train/loss", 0.5), (2, "train/loss", 0.25)]


def test_what_will_be_done_again_and_torn_lines_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    path.write_bytes(b'{"step": 1}\n{"loss": 1}\n[3]\n{"step": 3}\n{"step": 2}\n\xff\xfe\n{"step": 2, "lo')
    log = StatsLog(path, "step", 2)
    log.write({"step": 3, "loss": 1.0})
    log.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1}, {"step": 2}, {"step": 3, "loss": 1.0},
    ]  # fmt: skip
    purged = [event.step for event in read_events(tmp_path / "tensorboard") if event.HasField("session_log")]
    assert purged == [3]


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize("full", ["lines", "events"])
def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, full: str) -> None:
    def work() -> None:
        log = StatsLog(tmp_path / "stats.jsonl", "step", -1)
        assert log._events is not None
        monkeypatch.setattr(stats, "FLUSH_S", 0)
        with contextlib.closing(log):
            if full == "lines":
                log._lines.close()
                log._lines = FULL.open("w", buffering=1)
            else:
                log._events._records.close()
                log._events._records = RecordWriter(FULL.open("wb"))
            log.write({"step": 1, "loss": 1.0})

    from tensorboard.summary.writer.record_writer import RecordWriter

    assert guarded(work) == 1
    said = capfd.readouterr().err
    name = "stats.jsonl" if full == "lines" else "tensorboard/events.out.tfevents."
    assert said.startswith(f"error: {tmp_path}/{name}")
    assert said.endswith(": No space left on device\n")
    assert said.count("\n") == 1
