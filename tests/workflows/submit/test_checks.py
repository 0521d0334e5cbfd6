"""What is refused before anything is sent: options, secrets, and addresses that only this machine knows."""

from pathlib import Path

import pytest

from workflows import arguments, cli
from workflows.submit import places
from workflows.submit.config import HeadOptions

HEAD = "http://10.0.0.1:8265"
TRAIN = ["train", "--faces", "s3://b/f", "--out", "s3://b/m"]


@pytest.fixture(autouse=True)
def nothing_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def reached(address: str) -> None:
        raise AssertionError(f"{address} was asked")

    monkeypatch.setattr("workflows.submit.job.Head", reached)


def refused(capsys: pytest.CaptureFixture[str], *own: str, command: list[str], head: str = HEAD) -> list[str]:
    assert cli.main(["submit", "--address", head, *own, "--", *command]) == 2
    return [line.removeprefix("likeness submit: ") for line in capsys.readouterr().err.splitlines()]


def test_all_problems_at_once_with_those_of_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--wait", "--detach", "--wheel", "--installed", "--name", "a b", "--pass-env", "NOT_SET", "--shared", "x"]
    job = ["train", "--fces", "s3://b/f", "--out", "s3://b/m", "--steps", "0"]
    assert refused(capsys, *own, command=job) == [
        "wait and detach are both given; choose one",
        "wheel, installed and image exclude each other; choose one",
        "name is 'a b'; expected up to 100 letters, digits, dots, dashes or underscores",
        "pass_env names 'NOT_SET', which is not set here; set it or leave it out",
        "shared is 'x'; expected an absolute path",
        "train: there is no option --fces; did you mean --faces?",
        "train: --faces is missing: The Faces artefact to learn from",
        "train: steps is 0; it must be 1 or more",
    ]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([], "-- JOB is missing: expected likeness submit [options] -- JOB [its options]"),
        (["trian"], "there is no job 'trian'; `likeness` lists them"),
        (["jobs", "list"], "jobs list runs here and cannot be submitted; drop `submit --`"),
        (["train", "--help"], "--help and --print-config need no cluster; run `likeness train` with it"),
        ([*TRAIN, "--address", "10.0.0.1:6379"], "train: address is '10.0.0.1:6379'; the job joins the cluster that"),
    ],
)
def test_what_is_no_job_for_a_cluster(command: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = refused(capsys, command=command)
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("10.0.0.1:6379", "address is '10.0.0.1:6379'; expected the job server's, http://10.0.0.1:8265"),
        ("auto", "address is 'auto'; expected the job server's, http://auto:8265"),
        ("ray://10.0.0.1:10001", "address is 'ray://10.0.0.1:10001'; expected the job server's, http://10.0.0.1:8265"),
        (
            "https://u:planted@head",
            "address holds a password or a token, which no head reads there; set RAY_AUTH_TOKEN",
        ),
    ],
)
def test_addresses_of_no_job_server(address: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = refused(capsys, command=TRAIN, head=address)
    assert line.startswith(said)
    assert "planted" not in line


def test_the_environment_names_the_cluster(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cli.main(["jobs", "list"]) == 2
    assert "no cluster is named; give --address" in capsys.readouterr().err
    monkeypatch.setenv("RAY_ADDRESS", "http://one/")
    assert HeadOptions().head == "http://one"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://two")
    assert (HeadOptions().head, HeadOptions(address="http://three").head) == ("https://two", "http://three")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            ["--faces", "/data/faces"],
            "train: faces is '/data/faces', a path on this machine, and the head is another one",
        ),
        (["--faces", "file:///data/f"], "train: faces is 'file:///data/f', a path on this machine"),
        (
            ["--out", "runs/m"],
            "train: out is 'runs/m', a path relative to this folder, where the job does not run; write /",
        ),
        (["--tracking-uri", "sqlite:////x/m.db"], "train: tracking_uri is 'sqlite:////x/m.db', a sqlite file of this"),
        (
            ["--tracking-uri", "http://localhost:5000"],
            "train: tracking_uri is 'http://localhost:5000', which means this",
        ),
        (["--out", "hdfs://127.0.0.1/m"], "train: out is 'hdfs://127.0.0.1/m', which means this machine"),
    ],
)
def test_addresses_that_only_this_machine_knows(
    option: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = refused(capsys, command=[*TRAIN, *option])
    assert line.startswith(said)


def test_several_addresses_are_looked_at_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["index", "--embeddings", "s3://b/e,/data/e,e2", "--out", "s3://b/i"]
    assert [line.split(",")[0] for line in refused(capsys, command=command)] == [
        "index: embeddings is '/data/e'",
        "index: embeddings is 'e2'",
    ]
    pictures = refused(capsys, command=["verify", "/x/1.jpg", "s3://b/2.jpg", "--model", "models:/likeness/1"])
    assert [line.split(",")[0] for line in pictures] == ["verify: images is '/x/1.jpg'"]


@pytest.mark.parametrize("head", ["http://127.0.0.1:8265", "http://localhost:8265", "http://[::1]:8265", HEAD])
def test_what_nodes_see_is_no_problem(head: str) -> None:
    local = ["train", "--faces", "/mnt/data/f", "--out", "/mnt/data/m", "--tracking-uri", "http://mlflow:5000"]
    config, _ = arguments.parse(cli.JOBS["train"].config_class, local[1:])
    assert places.of_job(config, head, ["/mnt/data/"] if head == HEAD else []) == []


def test_a_folder_beside_a_shared_one_is_not_shared() -> None:
    config, _ = arguments.parse(cli.JOBS["train"].config_class, ["--faces", "/mnt/data2/f", "--out", "/mnt/data/../m"])
    assert len(places.of_job(config, HEAD, ["/mnt/data"])) == 2


def test_variables_are_looked_at_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:planted@localhost:5000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    (line,) = refused(capsys, "--pass-env", "MLFLOW_TRACKING_URI", "AWS_SECRET_ACCESS_KEY", command=TRAIN)
    assert line.startswith("pass_env: MLFLOW_TRACKING_URI holds an address, which means this machine")
    assert "planted" not in line


@pytest.mark.parametrize(
    "secret",
    [
        ["--tracking-uri", "https://u:planted@mlflow"],
        ["--faces=s3://key:planted@b/f"],
        ["--out", "s3://b/m?token=planted"],
    ],
)
def test_secrets_in_a_command_line_are_refused(
    secret: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = "an address holds a password or a token, which whoever may read the cluster's jobs could see"
    (line,) = refused(capsys, command=[*TRAIN, *secret])
    assert said in line
    assert "--pass-env" in line
    assert "planted" not in line
    (tmp_path / "c.yaml").write_text("tracking_uri: https://u:planted@mlflow\n")
    (line,) = refused(capsys, command=[*TRAIN, "--config", str(tmp_path / "c.yaml")])
    assert said in line, "nor in a file"


# A text that is no address: whoever adds an option decides whether it is one.
NO_ADDRESS = {
    *("address", "namespace", "train_split", "valid_split", "experiment", "run_name", "register", "split", "spec"),
    *("memory_budget", "disk_budget", "version", "identities", "views", "key_prefix", "tracking_uri", "workers"),
    *("a", "b", "to", "older", "identity"),
}


@pytest.mark.parametrize(
    "job", [name for name, job in cli.JOBS.items() if not issubclass(job.config_class, HeadOptions)]
)
def test_every_text_is_an_address_or_not(job: str) -> None:
    config_class = cli.JOBS[job].config_class
    options = [option for option in arguments.options_of(config_class) if "." not in option.path]
    texts = {option.path for option in options if "str" in str(option.type)}
    assert texts <= places.PATHS | NO_ADDRESS
    assert texts & places.PATHS
    assert not (texts & places.PATHS & NO_ADDRESS)
