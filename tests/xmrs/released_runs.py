"""Files as the released train.py leaves them, made with a tiny model of ours."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from projects.xmrs.model import FoodSpaceNet

OPTIONS = {
    "seed": 1234,
    "no_cuda": False,
    "embDim": 8,
    "textmodel": "mBERT_fulltxt",
    "textinputs": "title,ingr",
    "textAug": "english,de",
    "BERT_layers": 2,
    "BERT_heads": 4,
    "lr": 1e-05,
    "maxImgs": 3,
    "language": 2,
    "decayLR": "20,30",
}


def state_of(model: FoodSpaceNet) -> dict[str, torch.Tensor]:
    """State dict of the released model inside DataParallel, with transformers 4's buffer."""
    state: dict[str, torch.Tensor] = OrderedDict()
    for name, value in model.state_dict().items():
        if name.endswith("embeddings.word_embeddings.weight"):
            state["module.textMLP.mBERT.embeddings.position_ids"] = torch.arange(40)[None]
        state[f"module.{name}"] = value
    return state


def content(model: FoodSpaceNet, *, epoch: int = 7) -> dict[str, Any]:
    """A checkpoint: the optimizer is a whole object that has made a step."""
    optimizer = torch.optim.Adam(
        [{"params": [p for p in model.parameters() if p.ndim == 1]}, {"params": [model.align[0].weight]}],
        lr=1e-4,
    )
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return {
        "epoch": epoch,
        "state_dict": state_of(model),
        "optimizer": optimizer,
        "since_improvement": 2,
        "freeVision": True,
        "freeHeads": True,
        "freeWordEmb": False,
        "curr_val": 1.5,
        "curr_recall": {1: 0.5, 5: 0.75, 10: 0.875},
        "iteration": 420,
        "lr": 1e-05,
    }


def write_run(folder: Path, model: FoodSpaceNet) -> Path:
    """runs/<time>__train: opts.txt, models.py and checkpoints of which the best by recall is of `model`."""
    (folder / "models").mkdir(parents=True)
    lines = [f"{name}: {value}" for name, value in OPTIONS.items()]
    (folder / "opts.txt").write_text("\n".join([*lines, "experiment_sufix: ", "gone: 3"]) + "\n")
    (folder / "models.py").write_text("raise RuntimeError('nothing here is to be run')\n")
    whole = content(model)
    torch.save(whole, folder / "models" / "model_BEST_REC_e007_v-1.500_cr-2.1250.pth.tar")
    image_branch = {
        name.removeprefix("module."): value
        for name, value in whole["state_dict"].items()
        if "text" not in name and "rec" not in name
    }
    torch.save(
        image_branch, folder / "models" / "model_BEST_REC_e007_v-1.500_cr-2.1250_image_encoder.pth.tar"
    )
    with torch.no_grad():
        whole["state_dict"]["module.align.0.weight"] = torch.zeros_like(model.align[0].weight)
    torch.save(whole, folder / "models" / "model_BEST_VAL_e009_v-1.000_cr-1.0000.pth.tar")
    torch.save(whole, folder / "models" / "model.pth.tar")
    return folder
