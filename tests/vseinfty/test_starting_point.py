"""resume_from: our checkpoints with all their state, the authors' with their weights, and what does not fit."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from projects.vseinfty import released
from projects.vseinfty.engine import Progress
from projects.vseinfty.model import VSEModel, build_model
from projects.vseinfty.optim import build_optimizer
from projects.vseinfty.starting_point import start_from
from shared import checkpoint
from shared.errors import InputError
from shared.runtime import Runtime

CPU = Runtime(torch.device("cpu"))


def tiny(seed: int = 0, **changes: Any) -> VSEModel:
    torch.manual_seed(seed)
    sizes = {"embed_size": 12, "image_dim": 8, "vocab_size": 20, "word_dim": 6} | changes
    return build_model(**sizes)


def optimizer_with_state(model: VSEModel) -> torch.optim.Optimizer:
    optimizer = build_optimizer(model, learning_rate=1e-2)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    return optimizer


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A run folder with a checkpoint."""
    model = tiny()
    parts: dict[str, Any] = {
        "model": model,
        "optimizer": optimizer_with_state(model),
        "scaler": CPU.grad_scaler(),
    }
    at = Progress(epoch=3, step_in_epoch=2, step=17, best_rsum=99.5, best={"rsum": 99.5, "epoch": 2})
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    checkpoint.save(run_dir, runtime=CPU, modules=parts, progress=asdict(at), config={}, best=True)
    return run_dir


def start(path: Path | None, model: VSEModel, **options: bool) -> tuple[Progress, torch.optim.Optimizer]:
    optimizer = build_optimizer(model, learning_rate=1e-2)
    return start_from(path, model, optimizer, CPU.grad_scaler(), **options), optimizer


def same(model: VSEModel, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_nothing_to_start_from() -> None:
    model = tiny(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert start(None, model)[0] == Progress()
    assert same(model, before)


@pytest.mark.parametrize("name", ["", "last.pt", "best.pt"])
def test_our_checkpoint_brings_everything(name: str, ours: Path) -> None:
    model = tiny(1)
    at, optimizer = start(ours / name, model)
    saved = checkpoint.load(ours / "last.pt")["modules"]
    assert same(model, saved["model"])
    assert at == Progress(3, 2, 17, 99.5, {"rsum": 99.5, "epoch": 2})
    for key, state in optimizer.state_dict()["state"].items():
        assert torch.equal(state["exp_avg"], saved["optimizer"]["state"][key]["exp_avg"])


def test_weights_only_starts_at_epoch_zero(ours: Path) -> None:
    model = tiny(1)
    at, optimizer = start(ours, model, weights_only=True)
    assert same(model, checkpoint.load(ours / "last.pt")["modules"]["model"])
    assert at == Progress()
    assert not optimizer.state_dict()["state"]


@pytest.mark.parametrize("weights_only", [False, True])
def test_the_authors_checkpoint_brings_weights_and_counts(weights_only: bool, tmp_path: Path) -> None:
    theirs = tiny(5)
    path = tmp_path / "model_best.pth"
    released.save(path, theirs, options={"embed_size": 12}, epoch=4, best_rsum=123.5, steps=999)
    model = tiny(1)
    at, optimizer = start(path, model, weights_only=weights_only)
    assert same(model, theirs.state_dict())
    assert at == (Progress() if weights_only else Progress(epoch=4, step=999, best_rsum=123.5))
    assert not optimizer.state_dict()["state"]


def test_another_architecture_names_the_keys(ours: Path) -> None:
    with pytest.raises(InputError, match=r"last\.pt.*of another shape.*expected \[16"):
        start(ours, tiny(embed_size=16))
    with pytest.raises(InputError, match=r"last\.pt.*unexpected.*gpool"):
        start(ours, tiny(image_pooling="avg"))


def test_another_architecture_of_the_authors_names_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "model_best.pth"
    released.save(path, tiny(), options={})
    with pytest.raises(InputError, match=r"model_best\.pth \(text encoder\).*embed\.weight"):
        start(path, tiny(vocab_size=30))


def test_optimizer_that_does_not_fit_says_what_to_do(ours: Path) -> None:
    model = tiny()
    optimizer = build_optimizer(model, learning_rate=1e-2, gpo_lr_factor=3.0)
    with pytest.raises(InputError, match=r"optimizer does not fit.*reset_start_epoch=true"):
        start_from(ours, model, optimizer, CPU.grad_scaler())


def test_missing_file_and_file_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        start(tmp_path / "nothing.pt", tiny())
    with pytest.raises(InputError, match="no checkpoint"):
        start(tmp_path, tiny())
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(InputError, match=r"text\.pt"):
        start(tmp_path / "text.pt", tiny())
    torch.save({"weights": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt"):
        start(tmp_path / "other.pt", tiny())
