import contextlib
import errno
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared import checkpoint, runtime
from shared.errors import InputError
from shared.runtime import Runtime
from tests.shared import saver
from tests.shared.entries import make_entry


class Training:
    """A small training whose numbers depend on every random generator and on the optimizer's state."""

    def __init__(self, at: Runtime) -> None:
        runtime.seed_everything(0)
        self.runtime = at
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.modules: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer}

    def steps(self, count: int) -> None:
        """Train."""
        import random

        for _ in range(count):
            x = torch.from_numpy(np.random.standard_normal((6, 4))).float() + random.random()
            self.optimizer.zero_grad()
            self.model(x).square().sum().backward()
            self.optimizer.step()

    def save(self, folder: Path, step: int, **options: Any) -> None:
        """Checkpoint."""
        checkpoint.save(
            folder,
            runtime=self.runtime,
            modules=self.modules,
            progress={"step": step, "best_score": 0.1 + 0.2},
            config={"seed": 0},
            **options,
        )

    def resume(self, folder: Path) -> dict[str, Any] | None:
        """Continue."""
        return checkpoint.resume(folder, runtime=self.runtime, modules=self.modules)


def weights(training: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in training.model.state_dict().items()}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_resumed_training_is_bit_for_bit_the_uninterrupted_one(tmp_path: Path, one_process: Runtime) -> None:
    whole = Training(one_process)
    whole.steps(10)

    first = Training(one_process)
    first.steps(4)
    first.save(tmp_path, 4)
    first.steps(3)  # lost in the kill

    second = Training(one_process)
    progress = second.resume(tmp_path)
    assert progress == {"step": 4, "best_score": 0.1 + 0.2}
    second.steps(6)
    assert_equal(weights(second), weights(whole))
    with pytest.raises(AssertionError):
        assert_equal(weights(second), weights(first))


def test_a_fresh_folder_has_nothing_to_resume(tmp_path: Path, one_process: Runtime) -> None:
    assert Training(one_process).resume(tmp_path / "new") is None


def test_every_rank_goes_on_with_its_own_generators(two_rank_results: list[dict[str, Any]]) -> None:
    drawn = [found["draws"] for found in two_rank_results]
    for expected, again in drawn:
        assert again == expected
    assert drawn[0][0] != drawn[1][0]


def test_another_number_of_ranks_is_warned_of(
    tmp_path: Path, one_process: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    Training(one_process).save(tmp_path, 1)
    continued = []
    for rank in (0, 1, 0):
        training = Training(Runtime(torch.device("cpu"), rank=rank, world_size=2))
        with caplog.at_level(logging.WARNING):
            assert training.resume(tmp_path) is not None
        continued.append(torch.rand(()).item())
    assert "saved by 1 ranks, resumed by 2" in caplog.text
    assert len(caplog.records) == 2  # rank 0 twice, rank 1 never
    assert continued[0] == continued[2] != continued[1]


def test_side_file_says_what_is_in_the_checkpoint(tmp_path: Path, one_process: Runtime) -> None:
    Training(one_process).save(tmp_path, 7)
    side = json.loads((tmp_path / "last.json").read_text())
    assert side["progress"]["step"] == 7
    assert side["config"] == {"seed": 0}
    assert side["torch"] == torch.__version__
    assert not (tmp_path / "best.json").exists()


def test_best_stays_when_later_ones_are_not(tmp_path: Path, one_process: Runtime) -> None:
    training = Training(one_process)
    training.save(tmp_path, 1, best=True)
    best = weights(training)
    training.steps(1)
    training.save(tmp_path, 2)
    assert checkpoint.load(tmp_path / "best.pt")["progress"]["step"] == 1
    assert_equal(checkpoint.load(tmp_path / "best.pt")["modules"]["model"], best)
    assert checkpoint.load(tmp_path / "last.pt")["progress"]["step"] == 2
    assert json.loads((tmp_path / "best.json").read_text())["progress"]["step"] == 1
    training.save(tmp_path, 3, best=True)
    assert checkpoint.load(tmp_path / "best.pt")["progress"]["step"] == 3


def test_best_without_hard_links(
    tmp_path: Path, one_process: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    training = Training(one_process)
    training.save(tmp_path, 1, best=True)
    training.save(tmp_path, 2)
    assert checkpoint.load(tmp_path / "best.pt")["progress"]["step"] == 1


@pytest.mark.parametrize("when", ["everywhere", "at random"])
def test_killed_saver(tmp_path: Path, when: str) -> None:
    """SIGKILL at every step of saving in turn, and at random moments: all is whole, and the run goes on."""
    command = [sys.executable, saver.__file__, when, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] >= 10
    if when == "everywhere":
        # each of the 3 saves: half a write, fsync, replace, folder; last.json; 2 best saves: link, best.json
        assert found["kills"] >= 25
    else:
        assert found["inside a write"] >= 1


def test_leftovers_of_a_kill_are_removed(tmp_path: Path, one_process: Runtime) -> None:
    training = Training(one_process)
    training.save(tmp_path, 1, best=True)
    for name in (".last.pt.99-abc.tmp", ".best.pt.99-abc.tmp", ".last.json.99-abc.tmp"):
        (tmp_path / name).write_bytes(b"half")
    training.resume(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.json",
        "best.pt",
        "last.json",
        "last.pt",
    ]


FULL_DISK = """
    import resource, signal
    import torch
    from omegaconf import DictConfig
    from shared import checkpoint, config, runtime

    @config.entry(__file__)
    def main(cfg: DictConfig) -> None:
        with runtime.start(device="cpu", threads=1) as rt:
            given = {"modules": {"model": torch.nn.Linear(200, 200)}, "config": {}}
            for step in (1, 2):
                checkpoint.save(config.run_dir(), runtime=rt, progress={"step": step}, **given)
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (cfg.bytes, cfg.bytes))

    main()
"""


@pytest.mark.parametrize("size", [50_000, 161_000])
def test_full_disk_is_one_line_and_the_previous_checkpoint_stays(tmp_path: Path, size: int) -> None:
    entry = make_entry(tmp_path, FULL_DISK, f"bytes: {size}")
    done = subprocess.run([sys.executable, entry], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    run_dir = tmp_path / "runs/entry"
    assert done.stderr == f"error: {run_dir}/last.pt: File too large\n"
    assert checkpoint.load(run_dir / "last.pt")["progress"] == {"step": 1}
    assert sorted(path.name for path in run_dir.iterdir()) == ["last.json", "last.pt"]


@pytest.mark.parametrize("at", ["write", "fsync", "replace"])
def test_no_space_left(
    tmp_path: Path, one_process: Runtime, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    training = Training(one_process)
    training.save(tmp_path, 1)
    before = (tmp_path / "last.pt").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save = torch.save
    if at == "write":  # as torch reports it
        monkeypatch.setattr(torch, "save", lambda content, file: save(content, FullAfter(file, 2000)))
    else:
        monkeypatch.setattr(os, at, full)
    with pytest.raises(OSError, match="No space left") as found:
        training.save(tmp_path, 2)
    assert found.value.errno == errno.ENOSPC
    assert (tmp_path / "last.pt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.json", "last.pt"]


class FullAfter:
    """A file on a disk that is full after some bytes."""

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.left = file, size

    def write(self, data: Any) -> int:
        """Refuse what does not fit."""
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written: int = self.file.write(data)
        return written

    def flush(self) -> None:
        """Nothing."""


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write anywhere: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_read_only_folder(tmp_path: Path, one_process: Runtime) -> None:
    training = Training(one_process)
    training.save(tmp_path / "run", 1)
    (tmp_path / "run").chmod(0o555)
    with as_nobody(), pytest.raises(PermissionError) as found:
        training.save(tmp_path / "run", 2)
    (tmp_path / "run").chmod(0o755)
    assert str(tmp_path / "run") in str(found.value.filename)
    assert checkpoint.load(tmp_path / "run/last.pt")["progress"]["step"] == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["last.json", "last.pt"]


def test_a_folder_that_cannot_be_made(tmp_path: Path, one_process: Runtime) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(NotADirectoryError):
        Training(one_process).save(tmp_path / "file" / "run", 1)


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_files_that_are_not_our_checkpoints(tmp_path: Path, one_process: Runtime) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(InputError, match=r"x\.pt: no such checkpoint"):
        checkpoint.load(path)
    path.mkdir()
    with pytest.raises(InputError, match=r"x\.pt: "):
        checkpoint.load(path)
    path.rmdir()
    Training(one_process).save(tmp_path, 1)
    whole = (tmp_path / "last.pt").read_bytes()
    foreign = pickle.dumps({"a": 1}, protocol=2)
    for content in (b"", b"some text\n", whole[: len(whole) // 2], whole[:-1], foreign):
        path.write_bytes(content)
        for mmap in (True, False):
            with pytest.raises(InputError, match=r"x\.pt: not a readable checkpoint"):
                checkpoint.load(path, mmap=mmap)
    torch.save({"model": torch.ones(2)}, path)
    with pytest.raises(InputError, match=r"x\.pt: not a checkpoint of this program"):
        checkpoint.load(path)
    torch.save({"format": checkpoint.FORMAT, "modules": Payload(tmp_path / "made")}, path)
    with pytest.raises(InputError, match=r"x\.pt: not a readable checkpoint"):
        checkpoint.load(path)
    assert not (tmp_path / "made").exists()


def test_resume_says_what_does_not_fit(tmp_path: Path, one_process: Runtime) -> None:
    Training(one_process).save(tmp_path, 1)
    other = Training(one_process)
    other.modules = {"model": other.model}
    with pytest.raises(InputError, match=r"last\.pt: holds \['model', 'optimizer'\], expected \['model'\]"):
        other.resume(tmp_path)
    other.model = nn.Sequential(nn.Linear(4, 9))
    other.modules = {"model": other.model, "optimizer": other.optimizer}
    with pytest.raises(InputError, match=r"last\.pt \(model\): does not fit Sequential"):
        other.resume(tmp_path)
    third = Training(one_process)
    third.modules["optimizer"] = torch.optim.AdamW([{"params": p} for p in third.model.parameters()])
    with pytest.raises(InputError, match=r"last\.pt: the state of optimizer does not fit"):
        third.resume(tmp_path)


def test_a_scaler_that_was_off_restores_nothing(tmp_path: Path, one_process: Runtime) -> None:
    layer = nn.Linear(2, 2)
    off, on = (torch.amp.GradScaler("cpu", enabled=enabled) for enabled in (False, True))
    saved: dict[str, Any] = {"model": layer, "scaler": off}
    checkpoint.save(tmp_path, runtime=one_process, modules=saved, progress={}, config={})
    modules: dict[str, Any] = {"model": layer, "scaler": on}
    assert checkpoint.resume(tmp_path, runtime=one_process, modules=modules) == {}


def test_load_strictly_names_every_kind_of_misfit() -> None:
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(6)))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = {key: torch.full_like(value, 7) for key, value in before.items()}
    for key in [f"{i}.bias" for i in range(5)]:
        del state[key]
    state["0.weight"] = torch.zeros(3, 2)
    state["extra"] = torch.zeros(1)
    with pytest.raises(InputError) as found:
        checkpoint.load_strictly(module, state, source="some.pth")
    assert str(found.value) == (
        "some.pth: does not fit Sequential (12 tensors): 5 missing (0.bias, 1.bias, 2.bias, and 2 more); "
        "1 unexpected (extra); 1 of another shape (0.weight: expected [2, 2], found [3, 2])"
    )
    assert_equal(module.state_dict(), before)  # nothing was loaded


def test_load_strictly_lets_named_keys_pass() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    state = {key: torch.ones_like(value) for key, value in module.state_dict().items()}
    del state["1.num_batches_tracked"]
    state["old.position_ids"] = torch.zeros(1)
    allowed: dict[str, Any] = {
        "allow_missing": ["*.num_batches_tracked"],
        "allow_unexpected": ["old.position_ids"],
    }
    checkpoint.load_strictly(module, state, source="x", **allowed)
    assert module[0].weight.eq(1).all()
    with pytest.raises(InputError, match="1 missing"):
        checkpoint.load_strictly(module, state, source="x", allow_unexpected=["old.position_ids"])
    with pytest.raises(InputError, match="1 unexpected"):
        checkpoint.load_strictly(module, state, source="x", allow_missing=["*.num_batches_tracked"])


def test_load_strictly_wants_tensors() -> None:
    with pytest.raises(InputError, match=r"weight: expected a tensor, found list"):
        checkpoint.load_strictly(nn.Linear(1, 1), {"weight": [[1.0]], "bias": torch.ones(1)}, source="x")


def test_progress_that_json_cannot_hold_is_refused(tmp_path: Path, one_process: Runtime) -> None:
    layer = nn.Linear(1, 1)
    progress: dict[str, Any] = {"step": np.int64(3), "best": float("-inf"), "order": (1, 2)}
    checkpoint.save(tmp_path, runtime=one_process, modules={"m": layer}, progress=progress, config={})
    found = checkpoint.resume(tmp_path, runtime=one_process, modules={"m": layer})
    assert found == {"step": 3, "best": float("-inf"), "order": [1, 2]}
    bad = {"x": object()}
    with pytest.raises((TypeError, AttributeError)):
        checkpoint.save(tmp_path, runtime=one_process, modules={"m": layer}, progress=bad, config={})
    assert checkpoint.load(tmp_path / "last.pt")["progress"]["step"] == 3
