"""What is shown if stderr is no terminal."""

import re
import time

import pytest

from workflows.shared import console


def test_lines_of_a_log_say_how_much_is_done_and_how_long_it_will_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.0)
    with console.bar("embed", 10_000) as bar:
        for done in (1_000, 2_000):
            time.sleep(0.01)  # a rate needs two points in time
            bar.update(done, "9/s")
        bar.update(3_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"^embed 2,000/10,000, 0:00:0\d left, 9/s$", err, re.MULTILINE)
    assert re.search(r"^embed 3,000/10,000, 0:00:0\d left$", err, re.MULTILINE)
