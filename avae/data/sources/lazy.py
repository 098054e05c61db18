"""Arrays that other libraries keep on disk, as if they were NumPy arrays: rows are read when they are asked for."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class Lazy:
    """Examples [N, *space, C] of which `read(rows)` gives some, for sorted integers [B] without repetition."""

    def __init__(self, shape: Sequence[int], dtype: Any, read: Callable[[np.ndarray], np.ndarray]) -> None:
        self.shape, self.dtype, self.ndim = tuple(shape), np.dtype(dtype), len(shape)
        self._read = read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, tuple) and index == (..., None):
            return Lazy((*self.shape, 1), self.dtype, lambda rows: self._read(rows)[..., None])
        rows = np.arange(len(self))[index]
        wanted, places = np.unique(rows, return_inverse=True)
        images = np.asarray(self._read(wanted)).astype(self.dtype.newbyteorder("="), copy=False)
        return images[places.reshape(np.shape(rows))] if np.ndim(rows) else images[0]
