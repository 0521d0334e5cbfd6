"""Every error that Likeness raises on purpose; anything else that escapes is a bug.

    LikenessError
    ├── ConfigError              options that cannot work; lists all problems at once
    ├── DataError                the source does not hold what the job needs
    │   ├── SchemaMismatch       a table's columns or types differ from the contract
    │   ├── NotReadable          no file, but a device or a named pipe, or a file too large to be one of its kind
    │   ├── ImageUnreadable      bytes that cannot be decoded into a face
    │   ├── TooFewImages         not enough people or pictures to do the job
    │   └── TooManyBadImages     more unreadable images than --max-bad-fraction allows
    ├── ArtefactError            a folder is not the artefact that was expected
    │   ├── Missing              there is nothing at the address
    │   ├── Unfinished           there is no manifest: the job that writes it has not ended
    │   ├── Corrupt              stored bytes differ from their digest
    │   ├── Occupied             the output folder holds something else
    │   └── FingerprintMismatch  vectors of two models would be mixed
    ├── StorageFull              the file system or a quota has no room left
    ├── NotWritable              the output folder may not be written to
    ├── IndexBuildError          an index failed its own checks
    ├── GateStopped              a new version of an index is worse than the live one, which stays
    ├── JobRunning               another live run holds the lease of this output
    └── JobFailed                a worker failed; the cause is in the message

Each class takes one message argument, because exceptions with more do not survive pickling when they
leave a Ray task. A message says what was found, what was expected, and what to do.
"""


class LikenessError(Exception):
    """Base of all deliberate errors. The command prints the message and exits with ``exit_code``."""

    exit_code = 1
    """1: the job failed. 2: the options or the data were bad. 3: a new version of an index was not published."""


class ConfigError(LikenessError):
    """Options that cannot work. One line per problem."""

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


class NotReadable(DataError):
    """An address of something that has no end, such as a device, or of more bytes than files of its kind can have."""


class ImageUnreadable(DataError):
    """Bytes that cannot be decoded into a face. ``str(error)`` is ``"<reason code>: <detail>"``."""


class TooFewImages(DataError):
    """Not enough people, or pictures per person, for the job."""


class TooManyBadImages(DataError):
    """More unreadable images than ``--max-bad-fraction`` allows."""


class ArtefactError(LikenessError):
    """A folder is not the artefact that was expected."""


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
    """The file system or a quota has no room for the file; no partial file is left."""


class NotWritable(LikenessError):
    """The folder of a file is read-only, or this user may not write there."""

    exit_code = 2


class IndexBuildError(LikenessError):
    """An index failed the checks before publishing."""


class GateStopped(LikenessError):
    """A new version of an index finds less than the live one, which stays."""

    exit_code = 3


class JobRunning(LikenessError):
    """Another live run holds the lease on this output."""


class JobFailed(LikenessError):
    """A worker failed for a reason that is not the user's input; the message carries the cause."""
