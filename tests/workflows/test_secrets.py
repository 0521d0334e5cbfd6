"""A secret that stands in an address is in nothing that a job prints, stores or hands on: one is planted wherever an
address can be given, and everything that a run leaves is searched for it.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import answering

from workflows import cli

SECRET = "pl4nted-s3cret"
LOGIN = f"anna:{SECRET}@"
STORES = [f"s3://{LOGIN}bucket/x", f"sftp://{LOGIN}host/x", f"https://host/x?X-Amz-Signature={SECRET}"]
OPTIONS = [
    ["catalogue", "--source", "{}", "--out", "out"],
    ["train", "--faces", "{}", "--out", "out"],
    ["embed", "--faces", "{}", "--model", "model", "--out", "out"],
    ["index", "--embeddings", "{}", "--out", "out"],
    ["index", "check", "--index", "{}"],
    ["search", "--index", "{}", "--embeddings", "embeddings"],
    ["verify", "a.jpg", "b.jpg", "--model", "{}"],
    ["embeddings", "stats", "--embeddings", "{}"],
]


def holding(folder: Path) -> list[str]:
    """The files below a folder in which the secret is, in their bytes or their names."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path) for path in files if SECRET.encode() in path.read_bytes() or SECRET in str(path)]


@pytest.mark.parametrize("argv", OPTIONS, ids=lambda argv: argv[0])
@pytest.mark.parametrize("address", STORES, ids=lambda address: address.partition(":")[0])
def test_addresses_of_stores(
    argv: list[str], address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where a traceback would be
    assert cli.main([word.format(address) for word in argv]) in (1, 2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert SECRET not in shown.err
    assert len(shown.err.splitlines()) == 1
    assert holding(tmp_path) == []


def test_mistakes_files_and_print_config(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    uri, train = f"http://{LOGIN}mlflow:5000", ["train", "--faces", "f", "--out", "o"]
    config = tmp_path / "c.yaml"
    for argv in (
        [*train, "--tracking-uri", uri, uri],
        [*train, "--workers", uri],
        [*train, f"--traking-uri={uri}"],
        [*train, "--tracking-uri", uri, "--print-config"],
        [*train, "--config", str(config), "--print-config"],
        [*train, "--config", f"{uri}/c.yaml"],
        ["trian", uri],
        [uri],
    ):
        config.write_text(f"tracking_uri: {uri}\naddress: {uri}\n")
        code = cli.main(argv)
        assert code == (0 if "--print-config" in argv else 2)
        shown = capsys.readouterr()
        assert SECRET not in shown.out + shown.err, argv
        if code == 0:
            assert "tracking_uri: http://mlflow:5000" in shown.out
            assert "users and passwords are left out" in shown.err
    config.unlink()

    def bug(config: object) -> None:
        raise RuntimeError(f"cannot open {uri}")

    monkeypatch.setattr("workflows.catalogue.job.run", bug)
    assert cli.main(["catalogue", "--source", uri, "--out", "o"]) == 1
    assert SECRET not in capsys.readouterr().err
    (saved,) = tmp_path.iterdir()
    assert "cannot open http://mlflow:5000" in saved.read_text()
    assert holding(tmp_path) == []


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """``HOST:PORT`` of a tracking server, whose database and files are in the test's folder."""
    with answering.mlflow(tmp_path) as place:
        yield place


@pytest.mark.slow
def test_a_training_whose_store_has_a_password(
    mlflow_server: str,
    people: Path,
    ray_session: None,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its output folder, MLflow's database and files and log, what it prints, and the log files of Ray."""
    import ray

    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "nobody")
    faces = str(tmp_path / "faces")
    assert cli.main(["catalogue", "--source", str(people), "--out", faces]) == 0
    capfd.readouterr()
    argv = ["train", "--faces", faces, "--out", str(tmp_path / "out"), "--steps", "2", "--identities", "6"]
    argv += ["--images", "3", "--image-size", "32", "--report-every", "1", "--json"]
    assert cli.main([*argv, "--tracking-uri", f"http://{LOGIN}{mlflow_server}"]) == 0
    shown = capfd.readouterr()
    found = json.loads(shown.out)  # so MLflow has printed nothing there
    assert SECRET not in shown.err
    assert f"http://{mlflow_server}" in shown.err
    assert f"http://{mlflow_server}" in (tmp_path / "out" / "manifest.json").read_text()
    assert found["mlflow_run"] in (tmp_path / "mlflow.db").read_bytes().decode(errors="replace")
    assert list((tmp_path / "stored").rglob("manifest.json")), "the registered model is searched, too"
    assert holding(tmp_path) == []
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    assert list((session / "logs").iterdir())
    assert holding(session / "logs") == []
