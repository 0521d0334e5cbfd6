"""All formats by name."""

from fuzz import artefacts, pictures, sources

FORMATS = {one.name: one for one in (*sources.FORMATS, *pictures.FORMATS, *artefacts.FORMATS)}
