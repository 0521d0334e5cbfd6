"""The Python snippets of a page of docs, by the title that they stand under."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def snippets(page: str) -> dict[str, list[str]]:
    """The snippets of ``docs/<page>``, in order, for each title of the second level that has any."""
    sections = re.split(r"^## ", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE)[1:]
    found = {text.split("\n")[0]: re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.M) for text in sections}
    return {title: codes for title, codes in found.items() if codes}


def run(page: str, titles: list[str]) -> dict[str, Any]:
    """Run the snippets under these titles one after another; returns the names that they define."""
    names: dict[str, Any] = {}
    for title in titles:
        for code in snippets(page)[title]:
            exec(compile(code, f"docs/{page}, {title}", "exec"), names)
    return names
