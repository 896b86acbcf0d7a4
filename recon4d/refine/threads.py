"""Number of PyTorch threads during computations on small tensors."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def single_thread() -> Iterator[None]:
    """Run PyTorch with one thread, and restore the number of threads afterwards.

    Fitting cameras consists of operations on small tensors. With several threads it is slower, because the threads wait
    for each other after each operation.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
