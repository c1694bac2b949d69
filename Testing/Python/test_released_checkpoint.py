"""Foreign checkpoints are read without running anything in them; what cannot be read says why."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import operator
import os
import pathlib
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from released_checkpoints import save_checkpoint

from LesionDiffusionLib.errors import BundleError
from LesionDiffusionLib.released.checkpoint import read_checkpoint

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1, 2], dtype=torch.int32)}


class Call:
    """Pickled, it asks the reader to call ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class CallbackState(dict):
    """An object of a training framework, with a hook that an ordinary reader would run."""

    def __init__(self):
        super().__init__(monitor="val/loss")
        self.patience = 3

    def __setstate__(self, state):
        Path(os.environ["CALLBACK_MARKER"]).touch()


def wrapped(place: str, thing: object) -> dict:
    """``save_checkpoint`` arguments that hide a thing in a checkpoint."""
    state = dict(WEIGHTS)
    if place == "state_dict":
        return {"state": state | {"z.weight": thing}}
    if place == "callbacks":
        return {"state": state, "callbacks": {"ModelCheckpoint": {"best_model_path": [thing]}}}
    if place == "optimizer":
        return {"state": state, "optimizer_states": [{"state": {0: {"step": (1, {"deep": thing})}}}]}
    return {"state": state, place: thing}


def require_weights(checkpoint) -> None:
    assert set(checkpoint.tensors) == set(WEIGHTS)
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in WEIGHTS.items())


def rewritten(path: Path, target: Path, new_pickle: bytes) -> Path:
    """A copy of a checkpoint with another data.pkl, as a valid archive."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, new_pickle if name.endswith("data.pkl") else old.read(name))
    return target


def pickle_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


# ---------------------------------------------------------------- what is read


def test_weights_and_counters_are_read(tmp_path):
    checkpoint = read_checkpoint(save_checkpoint(tmp_path / "x.ckpt", WEIGHTS))
    require_weights(checkpoint)
    assert (checkpoint.epoch, checkpoint.global_step) == (7, 1234)
    assert set(checkpoint.under("a.")) == {"weight", "bias"}


def test_what_is_no_plain_tensor_is_no_weight(tmp_path):
    more = {
        "sparse": torch.eye(2).to_sparse(),
        "text": "words",
        3: torch.zeros(1),
        "meta": torch.zeros(1, device="meta"),
    }
    require_weights(read_checkpoint(save_checkpoint(tmp_path / "x.ckpt", WEIGHTS | more, epoch=True, global_step=None)))


def test_what_training_frameworks_add_is_skipped_and_not_run(tmp_path, monkeypatch):
    """The weights-only reader refuses such a file as a whole; ours leaves out what is not needed."""
    marker = tmp_path / "executed"
    monkeypatch.setenv("CALLBACK_MARKER", str(marker))
    extras = {
        "hyper_parameters": argparse.Namespace(lr=1e-4),
        "callbacks": {CallbackState: CallbackState(), "when": datetime.datetime(2025, 7, 2), "kinds": {1, 2}},
        "loops": [np.float64(0.25), np.arange(3), np.dtype("int16"), pathlib.PurePosixPath("a/b"), range(3), 2j],
        "hparams_type": collections.defaultdict(list, a=[1]),
        "shapes": (torch.Size([1, 2]), torch.device("cpu"), torch.float16, bytearray(b"x"), frozenset("ab")),
    }
    state = torch.nn.ParameterDict({"a": torch.nn.Parameter(torch.ones(2))}).state_dict(keep_vars=True)
    path = save_checkpoint(tmp_path / "x.ckpt", WEIGHTS, **extras)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    require_weights(read_checkpoint(path))
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the hook is live: an ordinary reader runs it
    parameters = read_checkpoint(save_checkpoint(tmp_path / "y.ckpt", state, **extras)).tensors
    assert torch.equal(parameters["a"], torch.ones(2))
    assert not parameters["a"].requires_grad


def test_modules_that_a_file_names_are_not_imported(tmp_path, monkeypatch):
    """Python runs a module when it is imported, so that a name alone can be an attack."""
    marker = tmp_path / "executed"
    (tmp_path / "planted.py").write_text(f"open({str(marker)!r}, 'w')\nclass State: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    planted = __import__("planted")
    path = save_checkpoint(tmp_path / "x.ckpt", WEIGHTS, callbacks={planted.State: planted.State()})
    monkeypatch.delitem(sys.modules, "planted")
    marker.unlink()
    require_weights(read_checkpoint(path))
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("place", ["state_dict", "callbacks", "optimizer", "epoch", "anything"])
def test_a_checkpoint_that_runs_code_is_refused_and_runs_nothing(tmp_path, place):
    marker = tmp_path / "executed"
    path = save_checkpoint(tmp_path / "x.ckpt", **wrapped(place, Call(os.system, f"touch {marker}")))
    with pytest.raises(
        BundleError, match=r"it tries to run '(posix|nt)\.system'; nothing was run\. Do not use"
    ) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the attack is real: an ordinary reader falls for it


def open_for_writing(marker: Path) -> Call:
    return Call(open, str(marker), "w")


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda marker: Call(eval, f"open({str(marker)!r}, 'w')"), r"names the function 'builtins\.eval'"),
        (lambda marker: Call(exec, f"open({str(marker)!r}, 'w')"), r"names the function 'builtins\.exec'"),
        (open_for_writing, r"names the function '(builtins|_io|io)\.open'|tries to run '_?io\.open'"),
        (lambda _: exec, r"names the function 'builtins\.exec'"),
        (lambda _: getattr, r"names the function 'builtins\.getattr'"),
        (lambda marker: Call(subprocess.Popen, ["touch", str(marker)]), r"tries to run 'subprocess\.Popen'"),
        (
            lambda marker: Call(pathlib.Path.touch, marker),
            r"names the function 'builtins\.getattr'|tries to run 'pathlib",
        ),
        (lambda _: operator.methodcaller("touch"), r"tries to run '_?operator\.methodcaller'"),
        (lambda marker: Call(torch.load, str(marker)), r"tries to run 'torch\.serialization\.load'"),
        (lambda _: Call(collections.namedtuple, "A", "b"), r"tries to run 'collections\.namedtuple'"),
        (lambda _: Call(type, "A", (), {}), r"tries to run 'builtins\.type'"),
    ],
)
@pytest.mark.parametrize("place", ["state_dict", "callbacks"])
def test_every_call_that_is_not_of_plain_data_is_refused(tmp_path, attack, message, place):
    marker = tmp_path / "executed"
    path = save_checkpoint(tmp_path / "x.ckpt", **wrapped(place, attack(marker)))
    with pytest.raises(BundleError, match=message):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cposix\nsystem\n(S'touch MARKER'\ntR.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch MARKER\x85R.",
        b"(S'touch MARKER'\niposix\nsystem\n.",
        b"(cposix\nsystem\nS'touch MARKER'\no.",
        b'c__builtin__\nexec\n(S\'open("MARKER", "w")\'\ntR.',
        b"cposix\nsystem.__call__\n(S'touch MARKER'\ntR.",
    ],
)
def test_handmade_pickle_programs_are_refused(tmp_path, monkeypatch, program):
    """One for each of the ways in which a pickle can call: REDUCE, INST, OBJ, with old and new names."""
    monkeypatch.chdir(tmp_path)
    good = save_checkpoint(tmp_path / "good.ckpt", WEIGHTS)
    path = rewritten(good, tmp_path / "bad.ckpt", program)
    with pytest.raises(BundleError, match=r"it (tries to run|names the function) '(posix|builtins)\."):
        read_checkpoint(path)
    assert not (tmp_path / "MARKER").exists()


@pytest.mark.parametrize("state", [b"}X\x03\x00\x00\x00oddK\x01s", b"N}X\x03\x00\x00\x00oddK\x01s\x86"])
@pytest.mark.parametrize("name", [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"cx\ny\n"])
def test_a_pickle_cannot_tamper_with_the_program(tmp_path, name, state):
    """BUILD sets attributes on whatever it is given, functions included. Here it is given nothing of the program."""
    good = save_checkpoint(tmp_path / "good.ckpt", WEIGHTS)
    with pytest.raises(BundleError):
        read_checkpoint(rewritten(good, tmp_path / "bad.ckpt", b"\x80\x02" + name + state + b"b."))
    assert not hasattr(torch._utils._rebuild_tensor_v2, "odd")
    require_weights(read_checkpoint(good))


def test_tampering_works_on_an_ordinary_reader():
    """So the test above can fail."""
    function = pickle.loads(b"\x80\x02c" + __name__.encode() + b"\nwrapped\nN}X\x03\x00\x00\x00oddK\x01s\x86b.")
    assert function.odd == 1
    del function.odd


def test_shape_games_are_refused(tmp_path):
    """A tensor that claims more than its storage holds would read foreign memory."""
    path = save_checkpoint(tmp_path / "x.ckpt", {"w": torch.ones(3)}, extra=argparse.Namespace())
    content = pickle_of(path)
    claims = content.replace(b"K\x03\x85", b"M\xff\x7f\x85")  # shape (3,) becomes (32767,)
    assert claims != content
    with pytest.raises(BundleError, match="is damaged or of another kind"):
        read_checkpoint(rewritten(path, tmp_path / "y.ckpt", claims))


def test_random_damage_gives_a_checkpoint_or_one_clear_error(tmp_path, generator):
    for extras in ({}, {"extra": argparse.Namespace(a=np.float32(1))}):
        good = save_checkpoint(tmp_path / "good.ckpt", WEIGHTS, **extras)
        content = np.frombuffer(pickle_of(good), np.uint8)
        errors = []
        for _ in range(100):
            damaged = content.copy()
            damaged[generator.integers(len(content))] = generator.integers(0x20, 0x62)
            path = rewritten(good, tmp_path / "bad.ckpt", damaged.tobytes())
            try:
                read_checkpoint(path)
            except BundleError as error:
                errors.append(str(error))
        assert len(errors) > 15
        assert not any("\n" in error for error in errors)


# ---------------------------------------------------------------- what is no checkpoint


def old_format(path: Path, marker: Path) -> None:
    torch.save({"state_dict": Call(os.system, f"touch {marker}")}, path, _use_new_zipfile_serialization=False)


def bare_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Call(os.system, f"touch {marker}")}))


def tar_archive(path: Path, marker: Path) -> None:
    """The oldest format, in which even weights-only readers of the past ran code."""
    program = pickle.dumps(Call(os.system, f"touch {marker}"))
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(program)
            archive.addfile(entry, io.BytesIO(program))


def torch_script(path: Path, _: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)


def other_zip(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")


def truncated(path: Path, _: Path) -> None:
    save_checkpoint(path, WEIGHTS)
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, _: None, r"cannot read the checkpoint .*x.ckpt: No such file or directory; check the path"),
        (lambda path, _: path.mkdir(), r"expected a checkpoint file, but .*x.ckpt is a folder; give the .ckpt file"),
        (lambda path, _: path.touch(), r"expected a checkpoint, but .*x.ckpt is empty; download it again"),
        (
            lambda path, _: path.write_text("version https://git-lfs.github.com/spec/v1"),
            r"zip format, but .*x.ckpt begins with b'version https://git-lfs.*; download it again",
        ),
        (old_format, r"zip format, but .*x.ckpt begins with b'.*saved once more by PyTorch 1.6 or newer"),
        (bare_pickle, r"expected a checkpoint in PyTorch's zip format"),
        (tar_archive, r"expected a checkpoint in PyTorch's zip format"),
        (truncated, r"x.ckpt is truncated: the end of the archive is missing; download it again"),
        (torch_script, r"x.ckpt is damaged or of another kind \(.*\); download it again"),
        (other_zip, r"x.ckpt is damaged or of another kind \(.*\); download it again"),
        (lambda path, _: torch.save([1], path), r"expected a checkpoint with a 'state_dict', .*x.ckpt holds 'list'"),
        (lambda path, _: torch.save({}, path), r"'state_dict', .*x.ckpt holds nothing; give a training checkpoint"),
        (lambda path, _: torch.save({"w": torch.ones(1)}, path), r"'state_dict', .*x.ckpt holds 'w'"),
        (lambda path, _: torch.save({"state_dict": 3, "b": 1}, path), r"x.ckpt holds 'state_dict', 'b'"),
        (lambda path, _: torch.save({"state_dict": argparse.Namespace()}, path), r"x.ckpt holds 'state_dict'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.load. received a zip file that looks like a TorchScript archive")
def test_what_is_no_checkpoint_says_so_and_runs_nothing(tmp_path, make, message):
    path, marker = tmp_path / "x.ckpt", tmp_path / "executed"
    make(path, marker)
    with pytest.raises(BundleError, match=message) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
