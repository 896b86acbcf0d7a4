"""An object that must not be unpickled."""


class Malicious:
    """An object whose unpickling calls a function, given with its arguments."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call
