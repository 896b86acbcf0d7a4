"""What a person is told of an error: one line, without a trace."""


def one_line(error: BaseException) -> str:
    """What an error says; of an `OSError` what is wrong and with which file; its kind if it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
