"""SIGTERM and Ctrl-C end a job with one line and the signal's exit code, or are noted until it has saved its work."""

import os
import signal
import sys
from types import SimpleNamespace

import pytest

from workflows import cli
from workflows.shared import stopping

BOTH = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


@pytest.mark.parametrize(("number", "code"), BOTH)
def test_they_stop_a_job(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(one) for one, _ in BOTH]
    stopped = SimpleNamespace(run=lambda config: os.kill(os.getpid(), number))
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: stopped)
    monkeypatch.setattr(
        cli, "parse", lambda *_: (SimpleNamespace(), SimpleNamespace(print_config=False, json=False, private=False))
    )
    monkeypatch.setattr(cli.Job, "config_class", None)
    assert cli.main(["embed"]) == code
    assert capsys.readouterr() == ("", "likeness embed: stopped; the same command continues\n")
    assert [signal.getsignal(one) for one, _ in BOTH] == before


def test_what_libraries_print_is_no_result(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    chatty = SimpleNamespace(run=lambda config: {"model": "m", "printed": sys.stdout.write("View run\n")})
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: chatty)
    for verbose, err in ((False, ""), (True, "View run\n")):
        found = (SimpleNamespace(verbose=verbose), SimpleNamespace(print_config=False, json=True, private=False))
        monkeypatch.setattr(cli, "parse", lambda *_, found=found: found)
        monkeypatch.setattr(cli.Job, "config_class", None)
        assert cli.main(["embed"]) == 0
        assert capsys.readouterr() == ('{"model": "m", "printed": 9}\n', err)


@pytest.mark.parametrize(("number", "code"), BOTH)
def test_the_first_is_noted(number: signal.Signals, code: int) -> None:
    with stopping.noted() as signals:
        assert signals.number is None
        os.kill(os.getpid(), number)
        assert signals.number == number
        stopped = signals.stopped("at step 7")
    assert str(stopped) == "stopped at step 7; the same command continues"
    assert stopped.exit_code == code


def test_a_second_ctrl_c_stops_at_once() -> None:
    with stopping.raised(), stopping.noted() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.number == signal.SIGTERM
        with pytest.raises(stopping.Stopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping.raised():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_ray_replaces_comes_back() -> None:
    with stopping.raised() as signals:
        with stopping.kept():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with pytest.raises(stopping.Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signals.number == signal.SIGTERM
