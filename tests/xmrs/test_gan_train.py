"""gan_train.py: what a run leaves behind, continuing after SIGKILL, one line for a mistake."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from projects.xmrs import embeddings, gan_files
from tests.shared.runs import KILL_DRIVER
from tests.xmrs.gan_runs import GAN_TRAIN, run, settings, states, trained, world

VALIDATE = "projects.xmrs.retrieval:rank"  # points where a process dies: before the ranking of a validation
FILES = "projects.xmrs.gan_files:write_trace"  # before trace_GAN.csv is written


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(root, tmp_path_factory.mktemp("runs") / "whole")


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def results(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "results.json").read_text())
    return found


def test_what_a_run_leaves_behind(root: Path, whole: Path) -> None:
    trace = gan_files.read_trace(whole)
    assert [row["epoch"] for row in trace] == [1, 2]
    best = results(whole)["metrics"]
    assert best["r1"] == trace[best["epoch"] - 1]["R@1"]
    assert results(whole)["steps"] == 10
    losses = [line for line in metrics(whole) if "generator" in line]
    assert [line["step"] for line in losses] == list(range(1, 11))
    assert {"discriminator", "adversarial", "semantic", "kl", "image_cycle", "recipe_cycle"} <= set(losses[0])
    options = gan_files.read_options(whole)
    expected = {"Z_DIM": 8, "numClasses": 5, "embDim": 16, "W_IMG_REC_COS_LOSS": 32.0, "auto_drop_lr": False}
    assert {key: options[key] for key in expected} == expected

    # the best epoch's networks, in our file and in the released one; and the last epoch's
    of_best = states(whole, "best.pt")
    released = gan_files.load_generator(whole / gan_files.model_name(best["epoch"], "v1"))
    ours = gan_files.load_generator(whole)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, of_best[f"generator.{name}"])
        assert torch.equal(value, released.state_dict()[name])
    last = gan_files.load_discriminator(whole / "model_e002_v2_last_epoch.pkl")
    assert torch.equal(last.semantic_branch.weight, states(whole)["discriminator.semantic_branch.weight"])

    # embeddings were not there: made, and kept in this run's folder
    found = embeddings.load(embeddings.find(whole, "val"), dim=16)
    assert len(found.ids) == 20
    assert not list((root / "retrieval").glob("foodSpace*"))
    assert not list(whole.glob("*.tmp*"))


# 2 epochs of 5 steps, a checkpoint every 2 steps and after each epoch; one run, killed again and again
KILLS = [("step", 3), ("write", 1), (FILES, 1), ("best", 1), ("step", 4), (VALIDATE, 1)]


def test_killed_run_continues_bit_for_bit(root: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    for point, count in KILLS:
        finished = run(KILL_DRIVER, folder, *settings(root), arguments=(str(GAN_TRAIN), point, str(count)))
        assert finished.returncode == -signal.SIGKILL, (point, count, finished.stderr[-2000:])
        assert not (folder / "results.json").exists()
    trained(root, folder)
    for name in ("last.pt", "best.pt"):
        found, expected = states(folder, name), states(whole, name)
        assert found.keys() == expected.keys()
        assert not [key for key in expected if not torch.equal(found[key], expected[key])]
    assert metrics(folder) == metrics(whole)
    for name in (gan_files.TRACE, gan_files.OPTIONS):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    written = sorted(path.name for path in whole.glob("model_*"))
    assert sorted(path.name for path in folder.glob("model_*")) == written
    for name in written:
        found, expected = (torch.load(one / name, weights_only=True) for one in (folder, whole))
        assert all(torch.equal(found[key], value) for key, value in expected.items()), name
    assert not list(folder.glob("*.tmp*"))
    assert results(folder)["metrics"] == results(whole)["metrics"]


def test_a_finished_run_stays_and_other_settings_are_refused(root: Path, whole: Path) -> None:
    before = (whole / "last.pt").stat().st_mtime_ns
    trained(root, whole)
    assert (whole / "last.pt").stat().st_mtime_ns == before
    finished = run(GAN_TRAIN, whole, *settings(root, "loss.kl=1.0"))
    assert finished.returncode == 2
    assert "made with other settings (loss.kl: 2.0, now 1.0)" in finished.stderr


def test_starting_from_released_networks_and_embeddings_of_the_run(
    root: Path, whole: Path, tmp_path: Path
) -> None:
    folder = trained(
        root,
        tmp_path / "further",
        f"init_generator={whole}/model_e002_v1_last_epoch.pkl",
        f"init_discriminator={whole}/model_e002_v2_last_epoch.pkl",
        f"embeddings={whole}",
        "optim.epochs=1",
        "optim.learning_rate=0",
        "runtime.precision=bf16",
    )
    assert not list(folder.glob("foodSpace*")), "they were in the folder that was named"
    found, start = states(folder), states(whole)
    for name, value in start.items():
        if name.startswith("generator.") and name.endswith(".weight"):
            assert torch.equal(found[name], value), name


MISTAKES: list[tuple[list[str], str]] = [
    (["encoder=nowhere"], "nowhere: no such retrieval run; python train.py makes one"),
    (["optim.batch_size=1"], "optim.batch_size: batch norm needs at least 2 recipes, found 1"),
    (["optim.auto_drop=maybe"], "optim.auto_drop: expected true or false, found 'maybe'"),
    (["loss.kl=-1"], "loss.kl: expected a number, at least 0, found -1"),
    (["runtime.precision=fp16"], "runtime.precision: the GAN trains in fp32 or bf16, found fp16"),
    (["side=32"], "side: expected one of (64, 128), found 32"),
    (["validation.medr=21"], "validation.medr: subsets of 21 pairs asked for, but the split val has 20"),
    (["num_classes=4"], "num_classes: recipe"),
    (["init_generator=nowhere.pkl"], "nowhere.pkl: no such file or run folder of gan_train.py"),
    (["optim.batch_size=61"], "60 training items are fewer than the 61 of one batch"),
    (["optim.learning_rate=1e12", "optim.epochs=4"], "the loss is"),
]


@pytest.mark.parametrize("batch", [0, 1], ids=["checks", "data"])
def test_mistakes_end_in_one_line(batch: int, root: Path, tmp_path: Path) -> None:
    """Each in a process of its own would take a minute: the entry is called several times in one process."""
    own = MISTAKES[: len(MISTAKES) // 2] if batch == 0 else MISTAKES[len(MISTAKES) // 2 :]
    script = Path(__file__).with_name("many_commands.py")
    commands = [
        [f"hydra.run.dir={tmp_path / str(i)}", *settings(root, *given)] for i, (given, _) in enumerate(own)
    ]
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    finished = run(script, tmp_path, arguments=(str(GAN_TRAIN), str(tmp_path / "commands.json")))
    assert finished.returncode == 0, finished.stderr[-3000:]
    for (given, message), (code, stderr) in zip(
        own, json.loads(finished.stdout.splitlines()[-1]), strict=True
    ):
        assert code == 2, (given, stderr)
        lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, (given, stderr)
        assert message in lines[0], (given, lines)


def test_malicious_files_are_refused(root: Path, tmp_path: Path) -> None:
    """In the place of the encoder, of the embeddings and of the first networks."""
    evil = tmp_path / "evil_image_encoder.pth.tar"
    torch.save({"align.0.bias": Evil()}, evil)
    folder = tmp_path / "embeddings"
    folder.mkdir()
    (folder / "foodSpace_vectors_x_y_train_0.npz").write_bytes(evil.read_bytes())
    commands = [
        [f"hydra.run.dir={tmp_path / str(i)}", *settings(root, given)]
        for i, given in enumerate((f"encoder={evil}", f"embeddings={folder}", f"init_generator={evil}"))
    ]
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    script = Path(__file__).with_name("many_commands.py")
    finished = run(
        script, tmp_path, arguments=(str(GAN_TRAIN), str(tmp_path / "commands.json")), cwd=tmp_path
    )
    for code, stderr in json.loads(finished.stdout.splitlines()[-1]):
        assert code == 2
        assert len([line for line in stderr.splitlines() if line.startswith("error: ")]) == 1, stderr
    assert not list(tmp_path.rglob("hacked"))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch hacked",)
