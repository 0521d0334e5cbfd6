import json
import re
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import yaml
from support.commands import ACCEPTED, extended

from metric_core.errors import ConfigError, JobFailed
from workflows import arguments, cli


@dataclass(frozen=True)
class Inner:
    margin: float = 0.2
    """How far."""
    steepness: int = 1
    """How steep."""

    def __post_init__(self) -> None:
        if self.margin > 2:
            raise ConfigError(f"margin is {self.margin}; it must be at most 2")


@dataclass(frozen=True, kw_only=True)
class Config:
    faces: str
    """What to read."""
    out: str
    """What to write."""
    batch_size: int = 32
    """Faces at once."""
    kind: Literal["one", "two"] = "one"
    """Which."""
    name: str | None = None
    """A name."""
    gpu: bool = False
    """Use it."""
    image: list[str] = field(default_factory=list)
    """Some files."""
    also: list[str] = field(default_factory=list, metadata={"positional": True})
    """More files."""
    seed: int = 0
    """Of everything."""
    inner: Inner = field(default_factory=lambda: Inner(margin=0.4, steepness=3))

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; it must be 1 or more")


def parse(*argv: str) -> Config:
    return arguments.parse(Config, list(argv))[0]


def test_options_become_a_typed_config() -> None:
    config = parse(
        "--faces", "f", "--out=o", "--batch-size", "7", "--gpu", "--image", "a", "b", "--inner.margin", "0.5"
    )
    assert config == Config(faces="f", out="o", batch_size=7, gpu=True, image=["a", "b"], inner=Inner(0.5, 3))


def test_defaults_of_nested_options_are_the_outer_config_s() -> None:
    assert parse("--faces", "f", "--out", "o").inner == Inner(0.4, 3)
    assert {o.path: o.default for o in arguments.options_of(Config)}["inner.steepness"] == 3


def test_files_lie_below_the_command_line_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("faces: f\nbatch_size: 5\ngpu: true\nimage: [x, y]\nkind: two\ninner: {margin: 0.7}\n")
    config = parse("--batch-size", "9", "--config", str(path), "--out", "o", "--no-gpu")
    assert config == Config(faces="f", out="o", batch_size=9, kind="two", image=["x", "y"], inner=Inner(0.7, 3))


def test_positional_values_are_taken_wherever_they_stand(tmp_path: Path) -> None:
    assert parse("a", "--faces", "f", "b", "--out", "o", "c").also == ["a", "b", "c"]
    (tmp_path / "c.yaml").write_text("image: [x]\nalso: [a, b]\nfaces: f\nout: o\n")
    from_file = parse("--config", str(tmp_path / "c.yaml"))
    assert (from_file.image, from_file.also) == (["x"], ["a", "b"])
    assert parse("--config", str(tmp_path / "c.yaml"), "--out", "o", "c").also == ["c"]


@pytest.mark.parametrize(
    ("option", "default"), [("seed", "0"), ("batch-size", "32"), ("inner.margin", "0.4"), ("name", None), ("gpu", None)]
)
def test_help_shows_defaults_with_a_value(option: str, default: str | None) -> None:
    text = " ".join(arguments.help_text("likeness train", "Learn.", Config).split())
    of_option = text.split(f"--{option} ", 2)[-1].split(" --", 1)[0]
    assert ("(default:" in of_option) == (default is not None)
    assert default is None or f"(default: {default})" in of_option


def test_all_problems_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("bach_size: 5\ninner: {margn: 3}\n")
    with pytest.raises(ConfigError) as error:
        parse("--face", "f", "--batch-size", "x", "--kind", "three", "--inner.margin", "7", "--config", str(path), "-q")
    lines = str(error.value).splitlines()
    assert "there is no option --bach-size; did you mean --batch-size?" in lines
    assert "there is no option --inner.margn; did you mean --inner.margin?" in lines
    assert "there is no option --face; did you mean --faces?" in lines, "no abbreviations"
    assert any(line.startswith("--batch-size: invalid int value: 'x'") for line in lines)
    assert any(line.startswith("--kind: invalid choice: 'three'") for line in lines)
    assert "inner.margin is 7.0; it must be at most 2" in lines
    assert any(line.startswith("--out is missing") for line in lines)
    assert "there is no option -q" in lines


def test_every_number_out_of_range_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    train = "train --faces f --out o --steps 0 --warmup -1 --images 1 --cache-mib 0 --max-bad-fraction 2"
    assert cli.main(train.split()) == 2
    assert capsys.readouterr().err.splitlines() == [
        "likeness train: steps is 0; it must be 1 or more",
        "likeness train: warmup is -1; it must be 0 or more",
        "likeness train: max_bad_fraction is 2.0; it must be from 0 to 1",
        "likeness train: images is 1; it must be 2 or more: an anchor needs a positive",
    ]
    index = ["index", "--embeddings", "e", "--out", "o"]
    assert cli.main([*index, "--print-config"]) == 0, "shards is not given: nothing to check"
    assert cli.main([*index, "--shards", "0"]) == 2
    assert "shards is 0; it must be 1 or more" in capsys.readouterr().err


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        parse("--faces", "f", "--out", "o", "--config", str(tmp_path / "no.yaml"))
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match="found list"):
        parse("--faces", "f", "--out", "o", "--config", str(tmp_path / "list.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"faces: f\n\xff\n")
    (tmp_path / "date.yaml").write_text("out: 2024-13-45\n")
    with pytest.raises(ConfigError) as error:
        parse("--steps", "x", *(f"--config={tmp_path / name}.yaml" for name in ("binary", "date")))
    lines = str(error.value).splitlines()
    assert [line.split(": ", 1)[0] for line in lines] == [
        f"--config {tmp_path / 'binary.yaml'}",
        f"--config {tmp_path / 'date.yaml'}",
        "there is no option --steps",
        "--faces is missing",
        "--out is missing",
    ]
    assert lines[0].endswith("binary.yaml: the file is not in UTF-8; save it as UTF-8")


def test_lists_given_twice_are_joined_but_a_file_s_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("image: [x]\nfaces: f\nout: o\n")
    (tmp_path / "d.yaml").write_text("image: [y, z]\n")
    files = [f"--config={tmp_path / name}.yaml" for name in "cd"]
    assert parse(*files).image == ["y", "z"], "a later file replaces an earlier one's"
    assert parse("--image", "a", *files, "--image", "b", "c", "--faces", "g").image == ["a", "b", "c"]


@dataclass(frozen=True, kw_only=True)
class Handing:
    name: str | None = None
    """A name."""
    rest: list[str] = field(default_factory=list, metadata={"positional": True, "remainder": True})
    """What another command gets."""


def test_what_follows_two_dashes_is_left_as_it_is(tmp_path: Path) -> None:
    line = ["--name", "n", "--", "train", "--name", "other", "--config", "no.yaml", "--", "-x"]
    config = arguments.parse(Handing, line)[0]
    assert config == Handing(name="n", rest=line[3:])
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"rest": ["train", "--name", "x"], "name": "n"}))
    assert arguments.parse(Handing, ["--config", str(tmp_path / "c.yaml")])[0] == Handing(
        name="n", rest=["train", "--name", "x"]
    )
    with pytest.raises(ConfigError, match="there is no option --steps\nthe job's own options"):
        arguments.parse(Handing, ["train", "--steps", "5"])
    with pytest.raises(ConfigError, match="there is no option --"):
        parse("--faces", "f", "--out", "o", "--", "x")
    assert "usage: likeness x [options] -- JOB [its options]\n" in arguments.help_text("likeness x", "", Handing)


def test_a_config_is_a_command_line() -> None:
    config = parse(
        "--faces", "f", "--out=-o", "--image", "a", "b", "--gpu", "--inner.margin", "0.5", "--batch-size", "32", "x"
    )
    line = arguments.command_line(config)
    assert line == ["x", "--faces", "f", "--out=-o", "--gpu", "--image", "a", "b", "--inner.margin", "0.5"]
    assert parse(*line) == config


@pytest.mark.parametrize("number", ["-1", "-.5", "-1e-3", "-2.5E+1", "-3.e1", "-inf"])
def test_negative_numbers_are_values(number: str) -> None:
    config = parse("--faces", "f", "--out", "o", "--inner.margin", number, "--name", number, "--image", "a", number)
    assert (config.inner.margin, config.name, config.image) == (float(number), number, ["a", number])


def test_what_begins_with_a_dash_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "--faces", "f", "-o", "x", "-lr=3", "--warmup", "-3", "--run-name", "-a name with spaces", "-"]
    assert cli.main(line) == 2
    assert capsys.readouterr().err.splitlines() == [
        "likeness train: there is no option -o; did you mean --out?",
        "likeness train: there is no option -lr; did you mean --learning-rate?",
        "likeness train: -: not expected here",
        "likeness train: --out is missing: Folder or object-store address of the Model to write",
        "likeness train: warmup is -3; it must be 0 or more",
    ]


@pytest.mark.parametrize(("job", "line"), ACCEPTED.items())
def test_no_address_is_empty(job: str, line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An empty string, such as a variable of the shell that is not set, would mean the current folder."""
    texts = [o for o in arguments.options_of(cli.JOBS[job].config_class) if arguments._without_none(o.type) is str]
    texts = [option for option in texts if option.path != "key_prefix"]
    assert texts
    for option in texts:
        assert cli.main([*job.split(), *extended(line, option.flag, "", "--print-config")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert any(shown.startswith(f"likeness {job}: {option.path} is '") for shown in lines), lines


def test_a_file_of_an_earlier_version_with_an_option_that_is_gone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("faces: f\nout: o\nobjective: {ring: false, margin: 0.3}\n")
    assert cli.main(["train", "--config", str(tmp_path / "c.yaml")]) == 2
    said = "objective.ring is gone: batches are always gathered; delete the line"
    assert capsys.readouterr().err == f"likeness train: there is no option --no-objective.ring; {said}\n"


def test_a_range_of_workers_survives_a_config_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """YAML reads 2:8 without quotes as 128, a number to the base of 60."""
    argv = ["train", "--faces", "f", "--out", "o", "--print-config"]
    assert cli.main([*argv, "--workers", "2:8"]) == 0
    text = capsys.readouterr().out
    assert "workers: '2:8'" in text.splitlines()
    (tmp_path / "c.yaml").write_text(text)
    assert cli.main(["train", "--config", str(tmp_path / "c.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text


def test_print_config_makes_a_config_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    argv = ["train", "--faces", "f", "--out", "o", "--objective.margin", "0.3", "--steps", "7", "--print-config"]
    assert cli.main(argv) == 0
    text = capsys.readouterr().out
    body = yaml.safe_load(text)
    assert (body["steps"], body["objective"]["margin"]) == (7, 0.3)
    (tmp_path / "c.yaml").write_text(text)
    assert cli.main(["train", "--config", str(tmp_path / "c.yaml"), "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == body


@pytest.mark.parametrize("job", cli.JOBS)
def test_every_option_has_help_in_one_group(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*job.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    config_class = cli.JOBS[job].config_class
    for option in arguments.options_of(config_class):
        assert option.help, f"{option.path} has no docstring"
        assert not option.help.startswith("Of "), f"{option.path} does not say what it is"
        if not option.positional:
            assert len(re.findall(rf"^  {re.escape(option.flag)}\b", shown, re.MULTILINE)) >= 1
    groups = arguments.groups_of(config_class)
    assert arguments.UNTITLED not in groups, "an option is in no group: name it in GROUPS"
    named = [name for base in config_class.__mro__ for names in vars(base).get("GROUPS", {}).values() for name in names]
    assert sorted(named) == sorted({*named} & {f.name for f in fields(config_class)}), (
        "GROUPS names a field twice, or none"
    )
    titles = [line for line in shown.splitlines() if re.fullmatch(r"\S.*:", line)]
    assert titles == [f"{title}:" for title in (*groups, arguments.GENERAL)]


def test_help_opens_with_one_line_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["usage: likeness train --faces FACES --out OUT [options]", ""]
    assert arguments.help_text("likeness x", "", Config).startswith(
        "usage: likeness x --faces FACES --out OUT ALSO... [options]\n"
    )


def test_a_switch_shows_its_opposite_where_it_is_on(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "--help"])
    shown = capsys.readouterr().out
    assert "--standardise, --no-standardise" in shown
    assert "--gpu" in shown
    assert "--no-gpu" not in shown


def test_what_is_missing_is_no_second_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["embeddings", "export", "--embeddings", "e"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("likeness embeddings export: --out is missing: File to write: NAME.npy")


def test_exit_codes_and_output_streams(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main([]) == 2
    assert cli.main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err
    assert cli.main(["embeddings", "chekc"]) == 2
    assert "there is no job 'embeddings chekc'; did you mean embeddings check?" in capsys.readouterr().err
    assert cli.main(["embeddings"]) == 2
    assert "did you mean embeddings check or embeddings stats or" in capsys.readouterr().err
    for word in ("-h", "--help"):
        assert cli.main(["embeddings", word]) == 0
        out, err = capsys.readouterr()
        assert [line.split()[1] for line in out.splitlines() if line.startswith("  ")] == [
            *("check", "stats", "export", "compare")
        ]
        assert err == ""
    assert cli.main(["trian", "--help"]) == 2
    capsys.readouterr()
    (tmp_path / "faces").mkdir()
    assert cli.main(["evaluate", "--embeddings", str(tmp_path / "faces"), "--identification"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "unfinished" in err
    assert cli.main(["evaluate", "--embeddings", str(tmp_path / "no"), "--identification"]) == 2
    assert "does not exist; a finished" in capsys.readouterr().err


def test_json_is_one_object_on_stdout(capsys: pytest.CaptureFixture[str], tmp_path: Path, people: Path) -> None:
    argv = ["catalogue", "--source", str(people), "--out", str(tmp_path / "f"), "--valid-fraction", "0.3", "--json"]
    assert cli.main(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rows"] == 144
    assert result["identities"] == 24
    assert sum(split["rows"] for split in result["splits"].values()) == 144


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Makes ``likeness verify`` raise an error."""

    def fail(error: Exception) -> None:
        def run(config: object) -> None:
            raise error

        monkeypatch.setitem(sys.modules, "workflows.verify.job", SimpleNamespace(run=run))

    return fail


VERIFY = ["verify", "a.jpg", "b.jpg", "--model", "m"]


def test_an_unexpected_error_is_one_line_and_a_file(
    failing: Callable[[Exception], None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    failing(RuntimeError("x" * 500 + "\nand\nmore"))
    assert cli.main(VERIFY) == 1
    out, err = capsys.readouterr()
    (path,) = tmp_path.iterdir()
    assert (out, err) == ("", f"likeness verify: RuntimeError: {'x' * 200}; the traceback is in {path}\n")
    assert re.fullmatch(r"likeness-error-.*\.txt", path.name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert "Traceback (most recent call last)" in text
    assert text.rstrip().endswith("and\nmore")
    failing(KeyError())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert cli.main(VERIFY) == 1
    line = "likeness verify: KeyError: no message; the traceback could not be saved (No such file or directory)\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("error", "lines", "code"),
    [
        (OSError(28, "No space\n left", "/x"), ["[Errno 28] No space left: '/x'"], 1),
        (OSError(), ["OSError"], 1),
        (ConfigError.of(["a is 1", "b is 2"]), ["a is 1", "b is 2"], 2),
        (JobFailed("a worker died"), ["a worker died"], 1),
    ],
)
def test_expected_errors_leave_no_file(
    failing: Callable[[Exception], None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    lines: list[str],
    code: int,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    failing(error)
    assert cli.main(VERIFY) == code
    assert capsys.readouterr().err.splitlines() == [f"likeness verify: {line}" for line in lines]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        # 18 of 20 people by seed 0, 15 by seed 5, which is also the first number of workers that is accepted
        ("--workers 19 --people 20", "workers is 19; it must be at most 18, the people per batch of the training"),
        (
            "--workers 16 --people 20 --seed 5",
            "workers is 16; it must be at most 15, the people per batch of the training",
        ),
        (
            "--people 12",
            "people is 12; with seed 0 the split leaves 0 of them for the validation, which needs 2; draw more people "
            "or choose another seed",
        ),
        ("--workers 40 --source x", "workers is 40; it must be at most 32, the people per batch of the training"),
        ("--people 3", "people is 3; it must be 12 or more"),
    ],
)
def test_the_demo_refuses_before_it_draws(
    options: str, line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["demo", "--out", str(tmp_path / "demo"), *options.split()]) == 2
    assert capsys.readouterr().err == f"likeness demo: {line}\n"
    assert not list(tmp_path.iterdir())


# Options change on purpose: whoever adds, renames or drops one edits this list.
OPTIONS = {
    "catalogue": "address verbose source person-level unlabelled out tombstones namespace splits valid-fraction seed",
    "train": "address verbose max-pixels max-bytes "
    "faces out train-split valid-split workers gpu cpus-per-worker loader-workers cache-mib "
    "precision steps identities images person-weight cross-view learning-rate warmup weight-decay seed "
    "objective.loss objective.distance objective.miner objective.margin objective.positive-margin objective.form "
    "objective.reduction objective.temperature objective.alpha objective.beta objective.base objective.epsilon "
    "objective.memory-rows objective.memory-max-age objective.memory-weight "
    "objective.hardest-from-memory harden hardening.below hardening.memory hardening.margin-factor collapse.rank "
    "collapse.distance collapse.patience augmentation.flip augmentation.rotate augmentation.scale augmentation.shift "
    "augmentation.light augmentation.erase backbone norm embedding-size image-size colour crop "
    "resize align standardise flip-average report-every evaluate-every checkpoint-every max-bad-fraction max-failures "
    "collective-timeout "
    "tracking-uri experiment run-name register",
    "embed": "address verbose max-pixels max-bytes "
    "faces model out since tombstones split dtype precision unit-size batch actors decoders "
    "gpu gpu-per-actor max-bad-fraction retry-quarantined tracking-uri dry-run price-per-hour",
    "index": "tolerance probes force address verbose publish embeddings out tombstones picture dry-run verify "
    "target-identity-recall target-recall memory-budget disk-budget spec shards seed",
    "index add": "tolerance probes force address verbose publish index embeddings version tombstones verify",
    "index check": "index version verify",
    "index export": "index version out",
    "index versions": "index",
    "index publish": "tolerance probes force index version",
    "index rollback": "index to",
    "index diff": "index a b top",
    "index prune": "index keep older version unfinished dry-run",
    "search": "index model image embeddings verify identities face-ids views split top out gallery faces",
    "verify": "model images far",
    "evaluate": "embeddings pairs key-prefix verification identification retrieval clustering threshold classification "
    "neighbours",
    "embeddings check": "embeddings faces tombstones",
    "embeddings stats": "embeddings",
    "embeddings export": "embeddings out keys faces",
    "embeddings compare": "old new faces threshold picture seed",
    "erase": "identity face-id faces embeddings index matches tombstones receipt lift yes-all list",
    "pipeline": "tolerance probes force address verbose max-pixels max-bytes source model work person-level unlabelled "
    "namespace dtype precision unit-size max-bad-fraction retry-quarantined target-identity-recall target-recall "
    "memory-budget disk-budget spec shards seed rebuild upgrade max-gone keep gpu gpu-per-actor actors decoders batch "
    "tracking-uri",
    "demo": "address verbose out source people pictures steps workers seed",
    "submit": "address command name wait detach wheel installed image pass-env shared",
    "jobs list": "address name",
    "jobs status": "address name",
    "jobs logs": "address name follow",
    "jobs stop": "address name",
}


@pytest.mark.parametrize("job", cli.JOBS)
def test_options_are_pinned(job: str) -> None:
    options = arguments.options_of(cli.JOBS[job].config_class)
    assert [option.flag[2:] for option in options] == OPTIONS[job].split()
