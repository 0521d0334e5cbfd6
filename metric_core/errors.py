"""Every error that Likeness raises on purpose; anything else that escapes is a bug.

    LikenessError
    ├── ConfigError              options that cannot work; lists all problems at once
    ├── DataError                what the source holds is not what the job needs
    │   ├── SchemaMismatch       a table's columns or types differ from the contract
    │   ├── ImageUnreadable      bytes that are not an image we can decode
    │   ├── TooFewImages         not enough people or pictures to do the job
    │   └── TooManyBadImages     more unreadable images than --max-bad-fraction allows
    ├── ArtefactError            a folder that is not the artefact it is taken for
    │   ├── Missing              nothing there
    │   ├── Unfinished           there is no manifest: the job that writes it has not ended
    │   ├── Corrupt              bytes that differ from their digest
    │   ├── Occupied             the output folder holds something else
    │   └── FingerprintMismatch  vectors of two models would be mixed
    ├── StorageFull              no room for what was to be written
    ├── IndexBuildError          an index that failed its own checks
    ├── JobRunning               another live run holds the lease of this output
    └── JobFailed                a worker failed; the cause is in the message

Each class takes one message argument, because exceptions with more do not survive pickling on their way
out of a Ray task. A message says what was found, what was expected, and what to do.
"""


class LikenessError(Exception):
    """Base of all deliberate errors. The command prints the message and exits with ``exit_code``."""

    exit_code = 1
    """1: the job failed. 2: the input was bad; nothing was started, or the data is to blame."""


class ConfigError(LikenessError):
    """Options that cannot work. One line a problem."""

    exit_code = 2

    @classmethod
    def of(cls, problems: list[str]) -> "ConfigError":
        """The error that reports all ``problems`` at once."""
        return cls("\n".join(problems))


class DataError(LikenessError):
    """The source does not hold what the job needs."""

    exit_code = 2


class SchemaMismatch(DataError):
    """A table's columns or types differ from the artefact's contract."""


class ImageUnreadable(DataError):
    """Bytes that cannot be decoded into a face. ``str(error)`` is ``"<reason code>: <detail>"``."""


class TooFewImages(DataError):
    """Not enough people, or pictures a person, for the job."""


class TooManyBadImages(DataError):
    """More unreadable images than ``--max-bad-fraction`` allows."""


class ArtefactError(LikenessError):
    """A folder is not the artefact that it is taken for."""


class Missing(ArtefactError):
    """There is nothing at the address."""

    exit_code = 2


class Unfinished(ArtefactError):
    """A folder without a manifest: the job that writes it was stopped or is still running."""

    exit_code = 2


class Corrupt(ArtefactError):
    """Stored bytes differ from the digest in the manifest."""


class Occupied(ArtefactError):
    """The output folder holds something that this job did not write."""

    exit_code = 2


class FingerprintMismatch(ArtefactError):
    """Vectors of two different models would be compared or mixed."""

    exit_code = 2


class StorageFull(LikenessError):
    """The file system or a quota has no room for what was to be written; nothing is half written."""


class IndexBuildError(LikenessError):
    """An index failed the checks that precede publishing."""


class JobRunning(LikenessError):
    """Another live run holds the lease on this output."""


class JobFailed(LikenessError):
    """A worker failed for a reason that is not the user's input; the message carries the cause."""
