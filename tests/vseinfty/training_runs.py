"""Tiny training runs for the tests: real files on disk, the real entry in a subprocess."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from projects.vseinfty import mini
from tests.shared.runs import assert_same_run, metrics, results, weights

__all__ = [
    "PROJECT",
    "TRAIN",
    "assert_same_run",
    "make_bert",
    "make_set",
    "metrics",
    "results",
    "settings",
    "train",
    "trained",
    "weights",
]
PROJECT = Path(mini.__file__).parent
TRAIN = PROJECT / "train.py"
SMALL = (
    "model.embed_size=16",
    "model.word_dim=8",
    "model.gpo={positional_dim:8,hidden_dim:8,temperature:0.1}",
    "optim.epochs=2",
    "optim.batch_size=12",
    "optim.lr_update=1.5",
    "optim.learning_rate=5e-3",
    "loss.vse_mean_warmup_epochs=0.7",
    "log_every=1",
    "save_every=2",
    "workers=0",
    "runtime.device=cpu",
    "runtime.threads=1",
)


def make_set(root: Path, train: int = 12, dev: int = 6) -> Path:
    """A small region set in the released layout; 12 training images = 60 captions = 5 steps an epoch."""
    return mini.ensure(root, variant="sparse", seed=0, train=train, dev=dev, test=2)


def settings(root: Path, *overrides: str) -> list[str]:
    """Overrides that train a small model on a set made by `make_set`, as if it were a real one."""
    return ["data=mini", "data.variant=null", f"data.root={root}", *SMALL, *overrides]


def make_bert(folder: Path, root: Path) -> list[str]:
    """Write a WordPiece vocabulary of the set's words; overrides for a random BERT of one small layer."""
    words = sorted({word for line in (root / "precomp/train_caps.txt").open() for word in line.split()})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    config = f"vocab_size:{len(tokens)},hidden_size:16,num_hidden_layers:1,num_attention_heads:2,intermediate_size:16"
    return [
        "model.text_encoder=bert",
        "model.bert_pretrained=false",
        f"model.bert_config={{{config}}}",
        f"data.vocab_path={folder / 'vocab.txt'}",
    ]


def train(
    run_dir: Path, *overrides: str, script: Path = TRAIN, arguments: tuple[str, ...] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """`python train.py ...` with its run folder at `run_dir`; stdout and stderr as text."""
    command = [sys.executable, str(script), *arguments, f"hydra.run.dir={run_dir}", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=environment, **options
    )


def trained(run_dir: Path, *overrides: str, **options: Any) -> Path:
    """`train`, which must succeed."""
    finished = train(run_dir, *overrides, **options)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return run_dir
