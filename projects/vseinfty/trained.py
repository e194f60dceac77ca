"""One way in for every trained model: a run folder or checkpoint of ours, or a file of the authors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from projects.vseinfty import released, sizes
from projects.vseinfty.captions import Tokenizer, build_tokenizer, check_vocab_size
from projects.vseinfty.model import VSEModel, build_model
from shared import checkpoint
from shared.errors import InputError
from shared.untrusted import load_checkpoint


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode and what its inputs need.

    Attributes:
        data_settings: how images and captions are prepared; for our runs the whole `data` section of the
            config.
        name: what it is called in tables and pages.
    """

    model: VSEModel
    tokenizer: Tokenizer
    data_settings: dict[str, Any]
    name: str


def load(
    path: str | Path,
    *,
    vocab_path: str | Path | None = None,
    bert: str | None = None,
    device: torch.device | str = "cpu",
) -> Trained:
    """Load a trained model.

    Args:
        path: our run folder (its best.pt, else last.pt), one of our .pt files, or the authors' .pth.
        vocab_path: the vocabulary; default for our runs: that of training. The authors' BiGRU models need it.
        bert: name or folder of the BERT whose tokeniser is used; default: that of training, bert-base-
            uncased.
        device: where the model is put.

    Raises:
        InputError: no such checkpoint, or one that does not fit its own settings or the vocabulary.
    """
    path = Path(path).expanduser()
    file = _checkpoint_file(path)
    foreign = load_checkpoint(file)
    if released.is_released(foreign):
        return _released(released.from_content(foreign, file), vocab_path, bert, device)
    content = checkpoint.load(file)
    settings = content["config"]
    model_settings, data_settings = dict(settings["model"]), dict(settings["data"])
    tokenizer = build_tokenizer(
        text_encoder=model_settings["text_encoder"],
        vocab_path=vocab_path or data_settings.get("vocab_path"),
        bert=bert or model_settings["bert"],
    )
    state = content["modules"]["model"]
    if model_settings["text_encoder"] == "bert":
        captions = {key.removeprefix("txt_enc."): value for key, value in state.items()}
        sizes_of_bert = sizes.bert_config(captions, str(file))
        model_settings["bert_config"] = {**sizes_of_bert, **(model_settings.get("bert_config") or {})}
    elif "txt_enc.embed.weight" in state:
        check_vocab_size(tokenizer, len(state["txt_enc.embed.weight"]), source=str(file))
    # Every weight comes from the checkpoint: none is looked for elsewhere.
    model_settings |= {"bert_pretrained": False, "backbone_weights": None}
    model = build_model(vocab_size=tokenizer.vocab_size, **model_settings)
    checkpoint.load_strictly(model, state, source=str(file))
    return Trained(model.eval().to(device), tokenizer, data_settings, str(settings.get("name", path.name)))


def _released(
    theirs: released.ReleasedCheckpoint,
    vocab_path: str | Path | None,
    bert: str | None,
    device: torch.device | str,
) -> Trained:
    tokenizer = build_tokenizer(
        text_encoder=theirs.text_encoder, vocab_path=vocab_path, bert=bert or "bert-base-uncased"
    )
    model = released.to_model(theirs)
    expected = released.text_settings(theirs).get("vocab_size")
    if expected is not None:
        check_vocab_size(tokenizer, expected, source=str(theirs.path))
    return Trained(model.to(device), tokenizer, released.data_settings(theirs), theirs.path.parent.name)


def _checkpoint_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in (checkpoint.BEST, checkpoint.LAST, "model_best.pth"):
        if (path / name).is_file():
            return path / name
    raise InputError(f"{path}: no checkpoint (best.pt, last.pt) in this folder")
