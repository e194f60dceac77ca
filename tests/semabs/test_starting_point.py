"""Runs that go on from another one, or start from its weights: ours and those under the released names."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from projects.semabs.starting_point import starting_point
from shared.errors import InputError
from tests.semabs.training_runs import metrics, same, settings, train, trained, weights

FIRST = ("optim.kind=lamb", "optim.schedule=constant", "validation.every=0")


class Malicious:
    """A pickle that would run a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def first(rooms_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch (2 steps)."""
    return trained(tmp_path_factory.mktemp("runs") / "first", *settings(rooms_root, *FIRST, "optim.epochs=1"))


def test_a_longer_run_goes_on_from_ours_and_from_a_released_file(
    first: Path, rooms_root: Path, tmp_path: Path
) -> None:
    """Both are the run that was two epochs long from the start: weights, moments, rates and draws go on."""
    whole = trained(tmp_path / "whole", *settings(rooms_root, *FIRST))
    for name, source in (("ours", first), ("released", first / "latest.pth")):
        onward = trained(tmp_path / name, *settings(rooms_root, *FIRST, f"resume_from={source}"))
        assert [line["step"] for line in metrics(onward) if "loss" in line] == [3, 4]
        assert same(weights(onward), weights(whole)), name
    assert starting_point(str(first / "latest.pth"), None).progress.epoch == 1


def test_weights_alone_start_from_step_one(first: Path, rooms_root: Path, tmp_path: Path) -> None:
    still = settings(rooms_root, f"init_from={first / 'ckpt_1.pth'}", "optim.lr=1e-30", "validation.every=0")
    anew = trained(tmp_path / "anew", *still, "optim.steps=1")
    assert [line["step"] for line in metrics(anew) if "loss" in line] == [1]
    before, after = weights(first), weights(anew)
    names = [name for name in before if name.startswith("model.") and not name.endswith("steps")]
    assert all(torch.equal(before[name], after[name]) for name in names)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("init_from={first}", "model.unet.f_maps=8"), ("last.pt", "does not fit", "of another shape")),
        (("resume_from={first}", "optim.epochs=1"), ("optim.epochs", "more than the 1")),
        (("resume_from={first}/none.pth",), ("resume_from", "none.pth")),
        (("init_from={bad}/text.pth",), ("text.pth",)),
        (("init_from={bad}/other.pth",), ("other.pth", "net, optimizer and epochs")),
        (("init_from={bad}/evil.pth",), ("evil.pth",)),
        (("resume_from={bad}/moments.pth",), ("moments.pth", "optimizer does not fit", "init_from")),
    ],
)
def test_what_does_not_fit_is_refused(
    overrides: tuple[str, ...], words: tuple[str, ...], first: Path, rooms_root: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "text.pth").write_text("no checkpoint")
    torch.save({"weights": torch.zeros(3)}, bad / "other.pth")
    torch.save({"net": Malicious(tmp_path / "mark")}, bad / "evil.pth")
    content = torch.load(first / "latest.pth", weights_only=True)
    next(iter(content["optimizer"]["state"].values()))["exp_avg"] = torch.zeros(2, 2)
    torch.save(content, bad / "moments.pth")
    given = [text.format(first=first, bad=bad) for text in overrides]
    finished = train(tmp_path / "run", *settings(rooms_root, *FIRST, *given))
    assert finished.returncode == 2, finished.stderr[-2000:]
    assert len(finished.stderr.strip().splitlines()) == 1, finished.stderr
    for word in words:
        assert word in finished.stderr, finished.stderr
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "run" / "last.pt").exists()


def test_no_such_file() -> None:
    with pytest.raises(InputError, match="init_from: no checkpoint"):
        starting_point(None, "nowhere")


def test_a_copied_run_folder_goes_on_by_itself(first: Path, rooms_root: Path, tmp_path: Path) -> None:
    """`resume_from` is for new folders: the one that was begun is continued from its own checkpoint."""
    copy = shutil.copytree(first, tmp_path / "copy")
    trained(copy, *settings(rooms_root, *FIRST, "optim.epochs=1"))
    assert metrics(copy) == metrics(first)
