"""What a command imports: help and bad options need nothing heavy, and a search for vectors needs no network."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from support import minted
from support.commands import ACCEPTED

from metric_core.artefacts import manifest
from workflows import cli

HEAVY = ("torch", "ray", "mlflow", "faiss", "sklearn", "scipy", "pandas", "numpy", "pyarrow")
FROZEN = Path(__file__).parents[1] / "frozen" / "1"


def run(code: str, *arguments: str) -> str:
    """The last line that a program prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_every_job_has_a_valid_command_line() -> None:
    assert ACCEPTED.keys() == cli.JOBS.keys()


def test_help_mistakes_and_print_config_import_nothing_heavy() -> None:
    code = f"""
import json, sys
from support.commands import ACCEPTED, extended
from workflows import cli
from workflows.arguments import options_of
codes = [[cli.main([]), cli.main(["--help"]), cli.main(["--version"]), cli.main(["trian"])]]
for job, accepted in ACCEPTED.items():
    lines = [["--help"], extended(accepted, "--print-config"), extended(accepted, "--leraning-rate", "1")]
    numbers = [o.flag for o in options_of(cli.JOBS[job].config_class) if o.placeholder in "NX"]
    lines += [extended(accepted, *([numbers[0], "many"] if numbers else ["--json=1"]))]
    lines += [extended(accepted, "--config"), accepted[:-2] if accepted else ["--config", "none.yaml"]]
    codes.append([cli.main([*job.split(), *line]) for line in lines])
print(json.dumps([codes, [name for name in {HEAVY} if name in sys.modules]]))
"""
    codes, heavy = json.loads(run(f"import sys; sys.path.insert(0, {str(FROZEN.parents[1])!r})\n{code}"))
    assert codes[0] == [2, 0, 0, 2]
    assert dict(zip(ACCEPTED, codes[1:])) == {job: [0, 0, 2, 2, 2, 2] for job in ACCEPTED}
    assert heavy == []


def test_a_search_for_vectors_imports_no_network_and_no_ray(tmp_path: Path) -> None:
    shutil.copytree(FROZEN / "index", tmp_path / "index")
    indexed = manifest.read(str(FROZEN / "embeddings"), "embeddings").content
    same = {name: indexed[name] for name in ("fingerprint", "namespace")}
    probe = minted.embeddings(tmp_path / "probe", [1], minted.unit_vectors(1, indexed["dim"]), **same)
    code = f"""
import json, sys
from workflows import cli
code = cli.main(["search", "--index", sys.argv[1], "--embeddings", sys.argv[2], "--out", sys.argv[3]])
print(json.dumps([code, [name for name in {(*HEAVY[:3], "sklearn", "scipy")} if name in sys.modules]]))
"""
    assert json.loads(run(code, str(tmp_path / "index"), probe, str(tmp_path / "matches"))) == [0, []]
    assert manifest.read(str(tmp_path / "matches"), "matches").content["rows"] == 5
