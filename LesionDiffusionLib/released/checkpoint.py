"""Checkpoints of others, read without running anything in them.

A checkpoint is a pickle, and a pickle is a program. PyTorch's weights-only reader comes first. It refuses every file
that holds more than weights, and training frameworks add much (callback state, numpy scalars, options). Such a file is
read once more by an unpickler that never imports and never calls what the file names.
"""

from __future__ import annotations

import builtins
import pickle
import struct
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # pickles up to protocol 2 use the names of Python 2
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

from LesionDiffusionLib.errors import BundleError
from LesionDiffusionLib.networks.text_tower import LOADING_ERRORS

# What broken pickles and archives raise, beyond what whole ones of a wrong kind do.
DAMAGE = (*LOADING_ERRORS, AssertionError, AttributeError, ArithmeticError, MemoryError, struct.error, SafetensorError)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The weights of a training checkpoint.

    Attributes:
        path: the file.
        tensors: name -> tensor of its ``state_dict``, mapped into memory: what is not used is never read.
        epoch, global_step: how far training had come, where the file says so.
    """

    path: Path
    tensors: dict[str, Tensor]
    epoch: int | None = None
    global_step: int | None = None

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors behind a prefix, which is taken off."""
        return {name[len(prefix) :]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a training checkpoint in PyTorch's zip format.

    Raises:
        BundleError: no such file, empty, truncated, of another kind, or one that tries to run code. Nothing is run.
    """
    _require_archive(path)
    content = _load(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        names = map(str, content) if isinstance(content, dict) else [type(content).__name__]
        found = ", ".join(f"{name!r:.40}" for name in list(names)[:5]) or "nothing"
        raise BundleError(
            f"expected a checkpoint with a 'state_dict', {path} holds {found}; give a training checkpoint"
        )
    tensors = {name: value.detach() for name, value in state.items() if isinstance(name, str) and _is_plain(value)}
    counters = (value if type(value) is int else None for value in map(content.get, ("epoch", "global_step")))
    return Checkpoint(path, tensors, *counters)


def _require_archive(path: Path) -> None:
    """The older formats are refused unread: PyTorch before 2.6 runs code in them even when asked for weights only."""
    if path.is_dir():
        raise BundleError(f"expected a checkpoint file, but {path} is a folder; give the .ckpt file")
    try:
        with path.open("rb") as file:
            head = file.read(32)
        whole = zipfile.is_zipfile(path)
    except OSError as error:
        raise BundleError(f"cannot read the checkpoint {path}: {error.strerror or error}; check the path") from error
    if not head:
        raise BundleError(f"expected a checkpoint, but {path} is empty; download it again")
    if not head.startswith(b"PK\x03\x04"):
        raise BundleError(
            f"expected a checkpoint in PyTorch's zip format, but {path} begins with {head!r}; download it again, or "
            "have an older checkpoint saved once more by PyTorch 1.6 or newer"
        )
    if not whole:
        raise BundleError(f"the checkpoint {path} is truncated: the end of the archive is missing; download it again")


def _load(path: Path) -> Any:
    try:
        try:
            return torch.load(str(path), map_location="cpu", mmap=True, weights_only=True)
        except pickle.UnpicklingError:
            return torch.load(str(path), map_location="cpu", mmap=True, weights_only=False, pickle_module=_INERT_PICKLE)
    except _RefusedError as error:
        raise BundleError(
            f"{path} is no plain checkpoint: it {error}; nothing was run. Do not use this file; get the authors' own"
        ) from error
    except DAMAGE as error:
        cause = "".join(filter(str.isprintable, " ".join(str(error).split())))[:200] or type(error).__name__
        raise BundleError(
            f"the checkpoint {path} is damaged or of another kind ({cause}); download it again"
        ) from error


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"


class _RefusedError(pickle.UnpicklingError):
    """The pickle asks for a call that is not on the list."""


class _Dictionary(dict):
    """Stands in for OrderedDict; attributes that a pickle wants to set on it are dropped."""

    def __setstate__(self, _: object) -> None:
        pass


PATH_KINDS = ("", "Posix", "Windows", "Pure", "PurePosix", "PureWindows")
# The only calls that are carried out ...
_CARRIED_OUT = {
    "collections.OrderedDict": _Dictionary,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}
# ... and those in which the pickles of plain data consist. They are skipped: nothing of that data is needed.
_SKIPPED = {
    *(f"builtins.{name}" for name in ("set", "frozenset", "bytearray", "complex", "slice", "range")),
    *(f"collections.{name}" for name in ("defaultdict", "Counter", "deque")),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(f"{module}.{name}Path" for module in ("pathlib", "pathlib._local") for name in PATH_KINDS),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "_codecs.encode", "torch.Size", "torch.device"),
}


class _PlaceholderType(type):
    """Whatever a pickle names becomes a fresh class of this type, called after it: nothing is looked up.

    A pickle makes ordinary objects with ``cls.__new__``, which here gives an empty one, and everything else by a call.
    """

    def __call__(cls, *args: object, **kwargs: object) -> object:
        if cls.__name__ in _CARRIED_OUT:
            return _CARRIED_OUT[cls.__name__](*args, **kwargs)
        if cls.__name__ in _SKIPPED:
            return cls.__new__(cls)
        raise _RefusedError(f"tries to run {cls.__name__!r}")


class _Placeholder(metaclass=_PlaceholderType):
    """Accepts everything a pickle does to an object, and keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> _Placeholder:
        return object.__new__(cls)

    def _ignore(self, *_: object) -> None:
        pass

    __setstate__ = append = extend = add = __setitem__ = _ignore


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        """A placeholder. Only a built-in function is refused at once: it has no business in data, not even uncalled."""
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        if module == "builtins" and not isinstance(getattr(builtins, name, None), type):
            raise _RefusedError(f"names the function {f'{module}.{name}'!r}")
        return _PlaceholderType(f"{module}.{name}", (_Placeholder,), {})


_INERT_PICKLE = SimpleNamespace(__name__="inert_pickle", Unpickler=_InertUnpickler)
