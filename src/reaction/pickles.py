"""Pickles from outside: NumPy's arrays in plain containers, and nothing that is executed."""

import pickle
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np


class Refused(pickle.UnpicklingError):
    """A pickle that asks for more than arrays in plain containers."""


class ArrayUnpickler(pickle.Unpickler):
    """Reads arrays of Python 2 and 3 in dictionaries and lists; whatever else a file names is refused before a call.

    `more` are harmless names that a format has besides, by module and name. Raises Refused naming the rest.
    """

    def __init__(self, file: BinaryIO, more: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(file, encoding="latin1")  # strings of Python 2 are bytes
        self._allowed = ARRAYS | more

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise Refused(f"it asks for {module}.{name}; only numpy arrays and plain containers are allowed")
        return self._allowed[module, name]


def _empty_array(_kind: object, _shape: object, _letter: object) -> np.ndarray:
    """What pickle fills with an array's shape, type and values."""
    return np.empty(0)


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes, hence the data of arrays, in the pickle protocols of Python 2."""
    if encoding != "latin1":
        raise Refused(f"it asks for bytes in {encoding}")
    return text.encode("latin1")


ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,  # by NumPy 2
    ("_codecs", "encode"): _encode,
}
