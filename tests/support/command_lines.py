"""The `likeness` commands in a page, a script or a manifest, as the arguments that the command would get."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
# What variables of the shell stand for; any other one is a word.
VARIABLES = [
    (r'"\$@"', "--faces /shared/faces --out /shared/model"),
    (r"\$\(\(.*?\)\)", "16"),
    (r"\$\{\w+:-([^}]*)\}", r"\1"),
    (r"\$dashboard", "8265"),
    (r"\$root", str(ROOT)),
    (r"\$PWD", "/shared"),
    (r"\$\w+", "word"),
    (r"/etc/likeness/", f"{ROOT}/infra/presets/multi-node/"),  # where pods have the presets
]


def commands(path: Path) -> list[list[str]]:
    """The `likeness` commands of a Markdown page's bash blocks, a shell script or a RayJob, without that word."""
    text = path.read_text()
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    elif path.suffix == ".yaml":
        text = "\n".join(one["spec"]["entrypoint"] for one in yaml.safe_load_all(text) if one["kind"] == "RayJob")
    return list(_in_shell(text))


def _in_shell(text: str) -> Iterator[list[str]]:
    for pattern, word in VARIABLES:
        text = re.sub(pattern, word, text)
    for line in text.replace("\\\n", " ").splitlines():
        if re.match(r"\s*likeness ", line):
            words = shlex.shlex(line, posix=True, punctuation_chars=True)
            words.whitespace_split = True
            found = list(words)
            end = next((i for i, word in enumerate(found) if re.fullmatch(r"[();<>|&]+", word)), len(found))
            yield found[1:end]
