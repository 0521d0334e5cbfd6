"""``likeness index check``: every file of an index, its vectors, and whether it still finds whom it found."""

from typing import Any

from metric_core import storage
from metric_core.errors import Corrupt
from metric_core.index import check, layout
from metric_core.index.layout import Content
from metric_core.index.search import Index
from metric_core.index.store import IndexStore
from workflows.index.config import CheckConfig


def run(config: CheckConfig) -> dict[str, Any]:
    """Check.

    Returns:
        {index, version, format, rows, people, shards, files, looked_up, identity_recall}; a version of format 1 has no
        people, files and recall.

    Raises:
        Missing, Unfinished: there is no such index or version, or no version is live.
        Corrupt: it lists everything that is wrong, one line per problem.
    """
    version = IndexStore(storage.absolute(config.index)).version(config.version)
    stored = version.manifest()
    answer: dict[str, Any] = {"index": version.index_uri, "version": version.id, "format": stored.format}
    if stored.format == 1:
        index = Index.open(version.index_uri, version.id, verify=config.verify)
        return answer | {"rows": index.rows, "shards": len(index.shards)}
    content = Content.parse(stored.content)
    problems = list(check.damage(version, content, verify=config.verify)) + content.problems()
    if problems:
        raise Corrupt("\n".join(problems))
    index = Index.load(version, content)
    lost, looked = check.lookup(index)
    if lost > check.MAY_BE_LOST * looked:
        problems.append(f"{lost} of {looked} sampled vectors do not find themselves")
    now, then = check.remeasured(index, content)
    # Another machine's sums of floats may differ in their last bits, and so a probe's answer; erasures affect others.
    differ = 2 + content.recall.get(layout.AFFECTED, 0)
    if abs(now - then) > differ / max(1, content.recall["counted"]):
        problems.append(f"the stored probes find {now:.4f} of their people, the manifest says {then:.4f}")
    if problems:
        raise Corrupt("\n".join(f"{version.uri}: {problem}" for problem in problems))
    return answer | {
        "rows": content.rows,
        "people": content.people,
        "shards": len(content.shards),
        "files": len(content.files) + sum(len(shard.files) for shard in content.shards),
        "looked_up": looked,
        "identity_recall": now,
    }
