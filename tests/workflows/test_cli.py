import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from metric_core.errors import ConfigError
from workflows import cli


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
    return cli.parse("train", Config, list(cli.options_of(Config)), list(argv))[0]


def test_options_become_a_typed_config() -> None:
    config = parse(
        "--faces", "f", "--out=o", "--batch-size", "7", "--gpu", "--image", "a", "b", "--inner.margin", "0.5"
    )
    assert config == Config(faces="f", out="o", batch_size=7, gpu=True, image=["a", "b"], inner=Inner(0.5, 3))


def test_defaults_of_nested_options_are_the_outer_config_s() -> None:
    assert parse("--faces", "f", "--out", "o").inner == Inner(0.4, 3)
    assert {o.path: o.default for o in cli.options_of(Config)}["inner.steepness"] == 3


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
def test_help_tells_a_default_that_is_one(option: str, default: str | None) -> None:
    text = " ".join(cli._parser("train", list(cli.options_of(Config))).format_help().split())
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
    assert any(line.startswith("-q: not expected") for line in lines)


def test_every_number_out_of_range_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    train = "train --faces f --out o --steps 0 --warmup -1 --images 1 --cache-mib 0 --max-bad-fraction 2"
    assert cli.main(train.split()) == 2
    assert capsys.readouterr().err.splitlines() == [
        "likeness train: warmup is -1; it must be 0 or more",
        "likeness train: steps is 0; it must be 1 or more",
        "likeness train: images is 1; it must be 2 or more: an anchor needs a positive",
        "likeness train: max_bad_fraction is 2.0; it must be a share, 0 to 1",
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


def test_print_config_makes_a_config_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    argv = ["train", "--faces", "f", "--out", "o", "--objective.margin", "0.3", "--steps", "7", "--print-config"]
    assert cli.main(argv) == 0
    text = capsys.readouterr().out
    body = yaml.safe_load(text)
    assert (body["steps"], body["objective"]["margin"]) == (7, 0.3)
    (tmp_path / "c.yaml").write_text(text)
    assert cli.main(["train", "--config", str(tmp_path / "c.yaml"), "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == body


def test_help_imports_no_heavy_module() -> None:
    code = (
        "import sys; from workflows import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'faiss', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.splitlines()[-1] == "[]"
    assert all(job in out for job in cli.JOBS)


@pytest.mark.parametrize("job", [job for job in cli.JOBS if job != "demo"])
def test_every_option_has_help(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*job.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    for option in cli.options_of(cli.JOBS[job].config_class):
        assert option.help, f"{option.path} has no docstring"
        assert (option.path.upper() if option.positional else option.flag) in shown


def test_exit_codes_and_where_words_go(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main([]) == 2
    assert cli.main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err
    assert cli.main(["embeddings", "chekc"]) == 2
    assert "there is no job 'embeddings chekc'; did you mean embeddings check?" in capsys.readouterr().err
    assert cli.main(["embeddings"]) == 2
    assert "did you mean embeddings check or embeddings stats or" in capsys.readouterr().err
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


# Options change on purpose: whoever adds, renames or drops one edits this list.
OPTIONS = {
    "catalogue": "address verbose source out tombstones namespace splits valid-fraction seed",
    "train": "address verbose faces out train-split valid-split workers gpu cpus-per-worker loader-workers cache-mib "
    "precision steps identities images person-weight cross-view learning-rate warmup weight-decay seed "
    "objective.loss objective.distance objective.miner objective.margin objective.positive-margin objective.form "
    "objective.reduction objective.temperature objective.alpha objective.beta objective.base objective.epsilon "
    "objective.ring objective.memory-rows objective.memory-max-age objective.memory-weight "
    "objective.hardest-from-memory harden hardening.below hardening.memory hardening.margin-factor collapse.rank "
    "collapse.distance collapse.patience augmentation.flip augmentation.rotate augmentation.scale augmentation.shift "
    "augmentation.light augmentation.erase backbone norm embedding-size image-size colour crop "
    "resize align standardise flip-average report-every evaluate-every checkpoint-every max-bad-fraction max-failures "
    "tracking-uri experiment run-name register",
    "embed": "address verbose faces model out since tombstones split dtype precision unit-size batch actors decoders "
    "gpu gpu-per-actor max-bad-fraction retry-quarantined tracking-uri dry-run price-per-hour",
    "index": "address verbose embeddings out tombstones shards target-recall memory-budget seed",
    "search": "index model image embeddings top out gallery faces",
    "verify": "model images far",
    "evaluate": "embeddings pairs key-prefix verification identification retrieval clustering threshold classification "
    "neighbours",
    "embeddings check": "embeddings faces tombstones",
    "embeddings stats": "embeddings",
    "embeddings export": "embeddings out",
    "embeddings compare": "old new faces threshold picture seed",
    "demo": "address verbose out source people pictures steps workers seed",
}


@pytest.mark.parametrize("job", cli.JOBS)
def test_options_are_pinned(job: str) -> None:
    options = cli.options_of(cli.JOBS[job].config_class)
    assert [option.flag[2:] for option in options] == OPTIONS[job].split()
