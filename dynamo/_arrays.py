"""Arrays that are also what older programs expect of their name. Loaded with NumPy, on first use."""

from typing import Any

import numpy as np


class CallableArray(np.ndarray[Any, Any]):
    """An array where a method used to be: called, it gives the list that the method gave."""

    def __call__(self) -> list[int]:
        return self.tolist()  # type: ignore[no-any-return]
