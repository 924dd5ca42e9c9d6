"""Every error that this package raises on purpose.

A message says what was found (the value, file or key), what was expected, and what to do about it. The
command line turns each class into one line on stderr and an exit code; libraries can catch `FastVLMError`.
"""


class FastVLMError(Exception):
    """Base of all errors raised on purpose by `fastvlm`."""


class ConfigError(FastVLMError, ValueError):
    """A setting, option or config.json value cannot work."""


class ShapeError(FastVLMError, ValueError):
    """An array or tensor has another shape or dtype than the function takes."""


class MediaError(FastVLMError, ValueError):
    """A picture cannot be read, is damaged, or exceeds a limit."""


class DataError(FastVLMError, ValueError):
    """A training or evaluation record cannot be used.

    Args:
        message: names file and record.
        kind: what is wrong in one or two words, for counts: schema, markers, roles, empty answer, media.
    """

    def __init__(self, message: str, *, kind: str = "schema") -> None:
        super().__init__(message)
        self.kind = kind


class ContextLengthError(FastVLMError, ValueError):
    """Prompt and image tokens do not fit the context of the model."""


class CheckpointError(FastVLMError, RuntimeError):
    """A checkpoint folder is incomplete, damaged, or of a layout that is not known."""


class DownloadError(CheckpointError):
    """A download failed, was cut, or does not have the announced size or hash."""


class BackendError(FastVLMError, RuntimeError):
    """The chosen backend, device or dtype cannot be used here."""


class NumericalError(BackendError):
    """The network produced NaN or infinity; the answer would be garbage."""


class MissingExtraError(FastVLMError, ImportError):
    """An optional package is needed for what was asked."""
