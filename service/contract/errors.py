"""Every error that nextquery raises on purpose, in one tree.

It knows nothing about HTTP: only `service/api/errors.py` maps these to statuses.

    NextQueryError
    |-- ConfigurationError      a setting, a file or an installation is wrong: mend it, then start again
    |   `-- NotEnoughData       a log says too little for what was asked; the text has the counts
    |-- ArtifactError           a model directory cannot be trusted: missing, altered, incomplete
    |   `-- PromptMismatch      a policy was trained on another prompt than the code renders
    |-- RegistryConflict        somebody else changed the champion first
    |-- DatabaseError           the database is away, or its schema is not ours
    |-- EngineError             the language model did not answer
    |   |-- EngineUnavailable   starting, dead, or switched off
    |   |-- EngineBusy          its queue is full
    |   `-- EngineFrozen        it accepts work and never answers
    |-- RetrievalError          co-occurrence retrieval did not answer
    |-- PredictionError         the click predictor did not answer
    |-- JobError              a job stopped: a stage failed, or its lock was lost; the next run goes on from there
    |   `-- JobBusy           another run of the job is under way
    |-- JudgeError              a judge did not answer, or nobody can read what it said
    |-- RowRefused            the database cannot hold a row, today or ever
    |-- TokenRefused            a click token is forged, altered or expired
    `-- Overloaded              nothing can be taken on now; try again later
"""


class NextQueryError(Exception):
    """Root of the tree; its text is a full sentence with the way out."""


class ConfigurationError(NextQueryError):
    """A setting, a file or an installation is wrong."""


class NotEnoughData(ConfigurationError):
    """A log says too little for what was asked of it."""


class ArtifactError(NextQueryError):
    """A model directory is missing, altered or incomplete."""


class PromptMismatch(ArtifactError):
    """A policy was trained on another prompt than the code renders."""


class RegistryConflict(NextQueryError):
    """A compare-and-set of the champion lost against somebody else's change."""


class DatabaseError(NextQueryError):
    """The database is away, or its schema is not the one this code needs."""


class RetrievalError(NextQueryError):
    """Co-occurrence retrieval did not answer: the list is written without it."""


class PredictionError(NextQueryError):
    """The click predictor did not answer: the list is shown as the model wrote it."""


class JudgeError(NextQueryError):
    """A judge did not answer, or nobody can read what it said."""


class RowRefused(NextQueryError):
    """The database cannot hold this row: a NUL, a lone surrogate, a missing or unknown column, a value too big."""


class JobError(NextQueryError):
    """A job stopped: a stage failed, or somebody else has its lock now."""


class JobBusy(JobError):
    """Another run of the job holds its lock."""


class EngineError(NextQueryError):
    """The language model did not answer."""


class EngineUnavailable(EngineError):
    """The engine is starting, dead, or switched off."""


class EngineBusy(EngineError):
    """The engine's queue is full."""


class EngineFrozen(EngineError):
    """The engine accepts work and never answers."""


class TokenRefused(NextQueryError):
    """A click token is forged, altered or expired. `reason` is one word for the quarantine."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Overloaded(NextQueryError):
    """Nothing can be taken on now. `retry_after_s` says when to try again."""

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
