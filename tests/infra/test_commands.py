"""Every `likeness` command in the README and in infra/ is accepted by the command, and every preset is a config."""

from pathlib import Path

import pytest
from support.command_lines import ROOT, commands

from workflows import arguments, cli

WRITTEN = [
    ROOT / "README.md",
    *(ROOT / "infra" / name for name in ("README.md", "slurm/train.sbatch", "kuberay/rayjob.yaml")),
]
REQUIRED = {
    "train": ["--faces", "faces", "--out", "model"],
    "embed": ["--faces", "faces", "--model", "model", "--out", "embeddings"],
    "index": ["--embeddings", "embeddings", "--out", "index"],
}
PRESETS = sorted((ROOT / "infra" / "presets").glob("*/*.yaml"))


def parsed(words: list[str]) -> object:
    """The config of a command line."""
    job = next(" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in cli.JOBS)
    return arguments.parse(cli.JOBS[job].config_class, words[len(job.split()) :])[0]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_written_command_is_accepted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where presets are named from
    found = commands(path)
    assert found, "no command was found"
    for words in found:
        parsed(words)


def test_commands_are_found_with_their_options(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '`likeness demo`\n```bash\nexport A=1\nlikeness submit --name "$name" -- \\\n  train --out $PWD/m   # why\n'
        "  likeness jobs list --json > list & echo $!\n```\n```python\nlikeness = 1\n```\n"
    )
    assert commands(page) == [
        ["submit", "--name", "word", "--", "train", "--out", "/shared/m"],
        ["jobs", "list", "--json"],
    ]


def test_there_is_a_preset_for_every_job_on_every_machine() -> None:
    machines = {"laptop", "one-gpu", "8-gpu", "multi-node"}
    expected = {f"{machine}/{job}.yaml" for machine in machines for job in REQUIRED}
    assert {f"{path.parent.name}/{path.name}" for path in PRESETS} == expected


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_presets_are_configs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = path.stem
    assert cli.main([job, *REQUIRED[job], "--config", str(path), "--print-config"]) == 0, capsys.readouterr().err
    assert ("gpu: true" in capsys.readouterr().out) == (job != "index" and path.parent.name != "laptop")
