"""What the jobs' configs check of their options in one and the same way."""

from typing import Any


def too_low(config: Any, **lowest: int) -> list[str]:
    """One problem for each option that is below its lowest value; an option that is None has no value to check."""
    values = {name: getattr(config, name) for name in lowest}
    return [
        f"{name} is {value}; it must be {lowest[name]} or more"
        for name, value in values.items()
        if value is not None and value < lowest[name]
    ]
