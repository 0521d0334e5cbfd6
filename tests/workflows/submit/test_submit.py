"""What submit does with names, options, secrets, interrupts and exit codes, on a head that is not there."""

import json
import sys
from io import StringIO
from pathlib import Path
from socket import gethostname
from types import SimpleNamespace

import pytest
from support.fake_head import FakeHead

from workflows import cli
from workflows.submit import job, listing, logs, names, remote, sent, status, stop, wheel

HEAD = "http://10.0.0.1:8265"
EVALUATE = ["evaluate", "--embeddings", "s3://b/e", "--retrieval"]
RESULT = ["training\n", 'likeness-result: "{\\"rank1\\": 0.5}', '\\n"\n']


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHead:
    """A head with one node that has all packages; nothing is built."""
    fake = FakeHead()
    for module in (job, listing, logs, status, stop):
        monkeypatch.setattr(module, "Head", fake)
    monkeypatch.setattr(wheel, "built", lambda: tmp_path / "likeness.zip")
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return fake


def submit(*own: str, command: list[str] | None = None) -> int:
    return cli.main(["submit", "--address", HEAD, *own, "--", *(EVALUATE if command is None else command)])


def test_the_job_s_lines_go_to_stderr_and_its_result_to_stdout(
    head: FakeHead, capsys: pytest.CaptureFixture[str]
) -> None:
    head.pieces = ["2026-01-01 00:00:00,000\tINFO job_manager.py:5 -- Runtime env is setting up.\n", "Running "]
    head.pieces += ["entrypoint for job x: y\nhalf a", " line\n", *RESULT]
    assert submit(command=[*EVALUATE, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"rank1": 0.5}
    assert [line for line in err.splitlines() if "nodes have the packages" not in line][1:] == [
        "half a line",
        "training",
    ]
    (kept,) = head.kept
    assert kept.entrypoint == f"{remote.COMMAND} evaluate --embeddings s3://b/e --retrieval --json"
    assert kept.metadata[names.COMMAND] == "evaluate --embeddings s3://b/e --retrieval --json"
    assert kept.metadata[names.VERSION]
    assert kept.submission_id.startswith("evaluate-")


@pytest.mark.parametrize("machines", [["far"], ["a", "b", "c", "d"], ["far", gethostname()], []])
def test_a_loopback_address_that_is_a_tunnel(
    machines: list[str], head: FakeHead, capsys: pytest.CaptureFixture[str]
) -> None:
    head.machines = machines
    local = ["train", "--faces", "/mnt/f", "--out", "s3://b/m", "--tracking-uri", "http://localhost:5000"]
    tunnel, there = ["submit", "--address", "http://127.0.0.1:8265"], gethostname() in machines or not machines
    assert cli.main([*tunnel, "--name", "one", "--", *local]) == (0 if there else 2)
    if not there:
        path, store, where = capsys.readouterr().err.splitlines()
        assert path.startswith("likeness submit: faces is '/mnt/f', a path on this machine, and the head is another")
        assert "--shared" in path
        assert store.startswith("likeness submit: tracking_uri is 'http://localhost:5000', which means this machine")
        shown = "a, b, c …" if "d" in machines else "far"
        assert where.startswith(f"likeness submit: http://127.0.0.1:8265 leads to a cluster on {shown}, not to this ma")
        assert not head.kept
    seen_by_all = [*local[:-2], "--tracking-uri", "http://mlflow:5000"]
    assert cli.main([*tunnel, "--name", "two", "--shared", "/mnt", "--", *seen_by_all]) == 0


def test_a_result_of_any_length_survives_the_log() -> None:
    text = "x" * 20_000 + '\n"zwei" – \u2028 \\'
    lines = ["before", *remote.framed(text), "after"]
    assert max(map(len, lines)) < 9000
    assert remote.result_in(lines) == text
    assert remote.result_in(["nothing"]) == ""


def test_what_the_command_prints_there_is_framed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["remote"])
    assert remote.main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert remote.result_in(lines) == "0.1.0\n"
    assert remote.main(["trian"]) == 2
    assert sys.argv == ["likeness", "trian"], "as artefacts record it"
    assert remote.missing(["torch>=2", "numpy>=999", "no-such-package", "PyYAML>=6"]) == [
        "numpy>=999",
        "no-such-package",
    ]


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        *(("SUCCEEDED", 0, 0), ("FAILED", 1, 1), ("FAILED", 2, 2), ("FAILED", 130, 130), ("FAILED", 143, 143)),
        *(("FAILED", -9, 137), ("FAILED", None, 1), ("STOPPED", None, 143), ("STOPPED", 130, 130)),
    ],
)
def test_the_exit_code_is_the_job_s(
    state: str, code: int | None, expected: int, head: FakeHead, capsys: pytest.CaptureFixture[str]
) -> None:
    head.ends = (state, code)
    assert submit() == expected
    said = capsys.readouterr().err.splitlines()[-1]
    remedy = "correct the command, under the same name" if expected == 2 else "the same command continues it"
    assert (f"(exit code {expected}); {remedy}" in said) == (expected != 0)


def test_a_job_that_could_not_start_says_why(head: FakeHead, capsys: pytest.CaptureFixture[str]) -> None:
    head.ends = ("FAILED", None)
    assert submit("--detach") == 0
    head.kept[0].message = "a traceback\n  of Ray\nruntime_env: no space left\n"
    head.kept[0].status = "RUNNING"
    head.follow = lambda job_id, show: setattr(head.kept[0], "status", "FAILED")  # type: ignore[method-assign]
    assert submit() == 1
    assert "failed (exit code 1): runtime_env: no space left; the same command" in capsys.readouterr().err


def test_a_name_attaches_is_done_or_continues(head: FakeHead, capsys: pytest.CaptureFixture[str]) -> None:
    head.ends = ("RUNNING", None)
    assert submit("--name", "e", "--detach") == 0
    assert capsys.readouterr().out == "e: PENDING\n"
    assert submit("--name", "e", "--detach", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"name": "e", "job": "e", "state": "RUNNING", "result": None}
    other = [*EVALUATE, "--neighbours", "7"]
    assert submit("--name", "e", command=other) == 2
    said = capsys.readouterr().err
    assert "`evaluate --embeddings s3://b/e --retrieval`" in said
    assert "`evaluate --embeddings s3://b/e --retrieval --neighbours 7`" in said
    for dead in ("FAILED", "STOPPED"):
        head.kept[-1].status = dead
        assert submit("--name", "e", "--detach") == 0
    assert [kept.submission_id for kept in head.kept] == ["e", "e-2", "e-3"]
    head.kept[-1].status = "SUCCEEDED"
    head.logs["e-3"] = "".join(RESULT)
    capsys.readouterr()
    assert submit("--name", "e") == 0
    out, err = capsys.readouterr()
    assert (out, len(head.kept)) == ('{"rank1": 0.5}\n', 3)
    assert "e is done already; another --name runs it again" in err
    assert submit("--name", "e", command=other) == 2
    head.kept[-1].status = "FAILED"
    assert submit("--name", "e", "--detach", command=other) == 0, "a command that failed may be corrected"
    assert submit("--name", "e-2", "--detach") == 0
    assert [kept.submission_id for kept in head.kept][3:] == ["e-4", "e-2-2"], "ids of one name are no other's"


def test_without_a_name_the_same_options_have_the_same(head: FakeHead, tmp_path: Path) -> None:
    head.ends = ("RUNNING", None)
    (tmp_path / "c.yaml").write_text("retrieval: true\nembeddings: s3://b/other\n")
    for command in (EVALUATE, ["evaluate", "--retrieval", "--neighbours", "5", "--embeddings=s3://b/e"]):
        assert submit("--detach", command=command) == 0
    assert (
        submit("--detach", command=["evaluate", "--config", str(tmp_path / "c.yaml"), "--embeddings", "s3://b/e"]) == 0
    )
    assert len(head.kept) == 1, "neither order nor defaults nor a file make another command"
    assert submit("--detach", command=[*EVALUATE, "--neighbours", "6"]) == 0
    assert len({kept.submission_id for kept in head.kept}) == 2


def test_an_interrupt_without_a_terminal_detaches(head: FakeHead, capsys: pytest.CaptureFixture[str]) -> None:
    head.pieces, head.interrupts = ["working\n"], [KeyboardInterrupt()]
    head.ends = ("RUNNING", None)
    assert submit("--name", "e", "--installed") == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        "likeness submit: detached from e, which goes on; `likeness jobs logs --follow --name e` attaches, "
        "`likeness jobs stop --name e` stops it"
    )
    assert head.stopped == []


@pytest.mark.parametrize(("answers", "code", "stopped"), [("d\n", 130, []), ("\ns\n", 143, ["e"]), ("\nD\n", 130, [])])
def test_an_interrupt_in_a_terminal_asks(
    answers: str,
    code: int,
    stopped: list[str],
    head: FakeHead,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = StringIO(answers)
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    head.pieces, head.interrupts = ["working\n", "on\n"], [KeyboardInterrupt(), KeyboardInterrupt()]
    head.ends = ("RUNNING", None)
    assert submit("--name", "e", "--installed") == code
    assert head.stopped == stopped
    assert capsys.readouterr().err.count("working\n") == 1, "what was shown is not shown again"


def test_what_is_sent(head: FakeHead, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("OTHER", "unsent")
    zipped = str(tmp_path / "likeness.zip")

    def sent_with(*own: str) -> SimpleNamespace:
        assert submit("--name", f"n{len(head.kept)}", "--detach", *own) == 0
        return head.kept[-1]

    last = sent_with("--pass-env", "AWS_SECRET_ACCESS_KEY")
    assert last.runtime_env["working_dir"] == zipped
    assert "pip" not in last.runtime_env
    assert remote.HOOK in last.runtime_env["env_vars"].values()
    assert len(head.kept) == 1, "the job that looks at the nodes is forgotten"
    last.status, last.driver_exit_code = "FAILED", -9
    assert sent_with().metadata[names.SENT] == sent.WHEEL
    assert len(head.forgotten) == 1, "one that was killed had all that it needed"
    for kept in head.kept:
        kept.status, kept.driver_exit_code = "FAILED", 1
    head.missing = '[\\"torch>=2.5\\"]'
    with_pins = sent_with("--wheel")
    assert with_pins.metadata[names.SENT] == sent.PINS
    assert {"torch", "pyarrow"} <= {one.split("==")[0] for one in with_pins.runtime_env["pip"]}
    assert not any(one.startswith("ray==") or "+" in one for one in with_pins.runtime_env["pip"])
    head.missing = "[]"
    assert sent_with().metadata[names.SENT] == sent.PINS, "what an earlier job worked with needs no look"
    assert set(sent_with("--installed").runtime_env) == {"env_vars"}
    assert sent_with("--image", "repo/likeness:1").runtime_env["image_uri"] == "repo/likeness:1"
    passed = sent_with("--installed", "--pass-env", "AWS_SECRET_ACCESS_KEY")
    assert passed.runtime_env["env_vars"]["AWS_SECRET_ACCESS_KEY"] == "planted"
    assert "planted" not in passed.entrypoint + str(passed.metadata)
    for kept in head.kept:
        assert "unsent" not in str(vars(kept))
    assert all("planted" not in str(vars(look)) for look in head.forgotten), "looking at nodes needs no secrets"


def test_a_tracking_server_that_is_not_sent_is_said(
    head: FakeHead, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    train = ["train", "--faces", "s3://b/f", "--out", "s3://b/m"]
    said = "MLFLOW_TRACKING_URI is set here and not sent"
    for own, more, expected in [
        ([], [], True),
        (["--pass-env", "MLFLOW_TRACKING_URI"], [], False),
        ([], ["--tracking-uri", "http://other:5000"], False),
    ]:
        assert submit("--installed", "--detach", "--name", f"n{len(head.kept)}", *own, command=[*train, *more]) == 0
        assert (said in capsys.readouterr().err) == expected
    assert submit("--installed", "--detach", "--name", "e") == 0
    assert said not in capsys.readouterr().err, "evaluate tracks nothing"


def test_jobs(head: FakeHead, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PASSWORD", "planted")
    where = ["--address", HEAD]
    assert cli.main(["jobs", "list", *where]) == 0
    assert capsys.readouterr().out == "JOB  STATE  STARTED  COMMAND\n"
    head.ends, head.pieces = ("RUNNING", None), ["a line\n", *RESULT]
    assert submit("--name", "e", "--detach", "--pass-env", "PASSWORD") == 0
    head.submit("python x.py --db postgresql://u:planted@h/d", "other", {}, {})
    capsys.readouterr()
    assert cli.main(["jobs", "list", *where]) == 0
    other, ours = capsys.readouterr().out.splitlines()[1:]
    assert other.split()[:2] == ["other", "RUNNING"]
    assert other.endswith("python x.py --db postgresql://h/d"), "secrets that others have submitted are not shown"
    assert ours.endswith("evaluate --embeddings s3://b/e --retrieval")
    assert cli.main(["jobs", "list", *where, "--name", "e", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["jobs"]
    assert cli.main(["jobs", "status", *where, "--name", "e", "--json"]) == 0
    text = capsys.readouterr().out
    assert json.loads(text) == listed
    assert (listed["state"], listed["exit_code"], listed["sent"]) == ("RUNNING", None, "wheel")
    assert "planted" not in text
    assert cli.main(["jobs", "logs", *where, "--name", "e"]) == 0
    assert capsys.readouterr().out == 'a line\ntraining\n{"rank1": 0.5}\n'
    assert cli.main(["jobs", "stop", *where, "--name", "e", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"job": "e", "stopped": True, "state": "STOPPED"}
    assert cli.main(["jobs", "logs", *where, "--name", "e", "--follow"]) == 143
    assert cli.main(["jobs", "stop", *where, "--name", "e", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stopped"] is False
    for what in ("status", "logs", "stop"):
        assert cli.main(["jobs", what, *where, "--name", "nobody"]) == 2
        assert "the cluster has no job 'nobody'; its latest: e, other" in capsys.readouterr().err
