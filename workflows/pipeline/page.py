"""The page about a run: one HTML file that needs nothing else. It names no people, as it may outlive an erasure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from metric_core.storage import without_secrets
from workflows.pipeline.journal import Step

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .3em .8em; text-align: left; vertical-align: top }
tr { border-bottom: 1px solid #ddd } pre { background: #f5f5f5; padding: 1em; overflow: auto }
.failed, .stopped { color: #b00020 } .unchanged { color: #777 } h2 { margin-top: 2em }
"""


def html(title: str, facts: Mapping[str, Any], steps: Sequence[Step], tables: Mapping[str, str]) -> str:
    """The page.

    Args:
        title: what came of the run, in a sentence.
        facts: addresses, digests and counts, by name.
        steps: what was done.
        tables: further texts, set as they are, by title.
    """
    rows = [[one.name, one.state, _note(one), f"{one.seconds:.1f} s", _figures(one.figures)] for one in steps]
    body = [
        f"<h1>likeness pipeline</h1><p>{_text(title)}</p>",
        _table((), ((name, "" if value is None else value) for name, value in facts.items())),
        "<h2>Steps</h2>",
        _table(("step", "", "", "", ""), rows, state=1),
        *(f"<h2>{_text(name)}</h2><pre>{_text(_nameless(text))}</pre>" for name, text in tables.items()),
    ]
    head = f'<meta charset="utf-8"><title>likeness pipeline</title><style>{_STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _nameless(table: str) -> str:
    """A comparison without the names of people who are gone."""
    return re.sub(r"( are gone),.*", r"\1", table)


def _note(step: Step) -> str:
    return step.note.splitlines()[0] if step.note else ""


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} {value:,.6g}" if value < 1 else f"{name} {value:,.10g}" for name, value in figures.items()
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], state: int | None = None) -> str:
    """``state``: the column whose words are also the class of the row."""
    lines = [f"<tr>{''.join(f'<th>{_text(one)}</th>' for one in head)}</tr>"] if any(head) else []
    for row in rows:
        kind = "" if state is None else f' class="{_text(row[state])}"'
        lines.append(f"<tr{kind}>{''.join(f'<td>{_text(one)}</td>' for one in row)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _text(value: Any) -> str:
    return escape(without_secrets(str(value)))
