"""Coverage of Ray's workers, which Ray ends before Python can write down what it measured.

Tasks are measured this way. An actor with ``max_concurrency`` runs its methods in threads of Ray's own, which Python
before 3.12 does not trace: they count as not covered. So does whatever runs in a Ray that a job starts for itself.
"""

from collections.abc import Callable


def ray_hook() -> dict[str, Callable[[], None]]:
    """The runtime environment in which workers save every second what they measured; empty unless this process is
    measured."""
    try:
        import coverage
    except ImportError:
        return {}

    def save_often() -> None:  # inside another function, so that it travels as code: workers cannot import this module
        import threading
        import time

        def save() -> None:
            while measuring := coverage.Coverage.current():
                time.sleep(1)
                measuring.save()

        threading.Thread(target=save, daemon=True).start()

    return {"worker_process_setup_hook": save_often} if coverage.Coverage.current() else {}
