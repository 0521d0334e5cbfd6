"""What the groups of numbers that steer learning check of themselves in one and the same way."""


def check(*limits: tuple[str, float, bool, str]) -> None:
    """Each limit is a number's name and value, whether it fits, and what is expected of it.

    Raises:
        ValueError: naming every number that does not fit, a line each.
    """
    problems = [f"{name} is {value}; expected {rule}" for name, value, fits, rule in limits if not fits]
    if problems:
        raise ValueError("\n".join(problems))
