"""Names and files of the released snapshots."""

from pathlib import Path

import torch

from projects.babel import snapshots


def test_a_snapshot_is_two_state_dicts_under_the_released_names(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    name = snapshots.write(
        tmp_path / "s", 24, -0.8, model=model.state_dict(), optimizer=optimizer.state_dict()
    )
    assert name == "e024Xs-0.800"
    path = tmp_path / "s/model_enc_e024Xs-0.800.pth"
    assert snapshots.epoch_of(path) == 24
    weights = torch.load(path, weights_only=True)
    assert {key: value.tolist() for key, value in weights.items()} == {
        key: value.tolist() for key, value in model.state_dict().items()
    }
    assert torch.load(snapshots.optimizer_of(path), weights_only=True)["param_groups"][0]["lr"] == 1e-3
    assert len(list((tmp_path / "s").iterdir())) == 2


def test_other_names_say_no_epoch() -> None:
    for name in ("model_enc_best.pth", "last.pt", "opt_enc_e024Xs-0.800.pth", "model_enc_e1_2Xs-0.8.pth"):
        assert snapshots.epoch_of(Path(name)) is None


def test_old_snapshots_are_removed(tmp_path: Path) -> None:
    for epoch, score in ((0, -1.3), (2, -1.1), (10, -0.9), (100, 0.25)):
        snapshots.write(tmp_path, epoch, score, model={}, optimizer={})
    (tmp_path / "model_enc_mine.pth").touch()
    snapshots.remove_old(tmp_path, 2)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [
        "model_enc_e010Xs-0.900.pth",
        "model_enc_e100Xs0.250.pth",
        "model_enc_mine.pth",
        "opt_enc_e010Xs-0.900.pth",
        "opt_enc_e100Xs0.250.pth",
    ]
