"""The exception for estimation problems that have no acceptable solution."""


class NoSolution(Exception):  # noqa: N818
    """An algorithm ran correctly but found no acceptable solution, for example for lack of parallax.

    Only this exception is caught when one of several starting points fails. It is not a `ValueError`, so that wrong
    shapes and arguments, which are defects, surface with their traceback.
    """
