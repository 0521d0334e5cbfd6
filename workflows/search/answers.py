"""What a match is called where nobody is named: by the key that its picture has in the Faces, else by its face_id."""

from typing import Any

import pyarrow as pa

from metric_core.artefacts.faces import Faces
from metric_core.errors import Missing
from metric_core.index.search import Index
from workflows.search.config import SearchConfig
from workflows.shared.console import say


def faces_at_hand(index: Index, config: SearchConfig) -> Faces | None:
    """The Faces that the option names, or those that the index recorded, if they are still there.

    Raises:
        Missing, Unfinished, Corrupt: of the Faces that the option names.
    """
    if config.faces:
        return Faces.open(config.faces)
    address = index.version.faces()
    try:
        return Faces.open(address) if address else None
    except Missing:
        say(f"{address} is gone, so matches without a name have only their face_id; give --faces for their keys")
        return None


def with_keys(matches: pa.Table, faces: Faces) -> pa.Table:
    """``schema.UNLABELLED_MATCHES`` with the keys that the Faces have; the catalogue is read once, part by part."""
    place = matches.schema.get_field_index("key")
    found = faces.find(matches["face_id"].to_numpy(), ["key"])
    return matches.set_column(place, matches.schema.field(place), found["key"])


def called(match: dict[str, Any]) -> str:
    """A row of Matches by its person's name; where there is none, by its picture's key or face_id."""
    return str(match["identity"] or match["key"] or match["face_id"])
