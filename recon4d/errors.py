"""Errors that a person can fix, kept apart from defects of this package.

Only `UserError` is reported in one line. Every other exception is a defect and surfaces with its full traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """A problem that the user can cause and fix: a bad option, a missing or damaged file, an unsuitable input.

    The message names the value or file given and says what is wanted instead. The command line prints it in one line.
    """


class DataError(UserError):
    """A file of a sequence or data set is not what its format requires.

    Args:
        sequence: The sequence that the file belongs to, as shown to the user.
        file: The file, or the part of it, that is wrong.
        reason: What is wrong, continuing the sentence that begins with the file's name.
    """

    def __init__(self, sequence: str, file: str | Path, reason: str) -> None:
        super().__init__(f"{sequence}: {file}: {reason}")
        self.sequence, self.file, self.reason = sequence, file, reason

    def __reduce__(self) -> tuple[type, tuple[str, str | Path, str]]:
        # Errors cross process borders (data loader workers); without this, unpickling would pass the message alone.
        return type(self), (self.sequence, self.file, self.reason)


@contextmanager
def os_errors_as_user_errors(action: str | None = None) -> Iterator[None]:
    """Turn errors of the operating system into user errors: missing files, no permission, a full disk.

    Use it around access to files that the user named. The message names the reason and, if the operating system
    reports it, the file.

    Args:
        action: What failed, as the beginning of the message: ``"cannot write clip.mp4"``. None starts the message with
            the reason.

    Raises:
        UserError: If an `OSError` occurs in the block.
    """
    try:
        yield
    except OSError as error:
        reason = one_line(error)
        raise UserError(f"{action}: {reason}" if action else reason) from error


def one_line(error: BaseException) -> str:
    """Describe an error in a single line.

    Args:
        error: Any exception.

    Returns:
        The error's message without line breaks. For an `OSError` this is the reason and the file; for an error without
        a message it is the name of its class.
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
