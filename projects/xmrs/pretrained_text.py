"""Multilingual BERT's embeddings into a text branch; its twelve layers are not taken (paper section 3.2)."""

from pathlib import Path

import torch
from torch import Tensor

from projects.xmrs.text_encoder import AverageText, Embeddings, TransformerText
from shared.atomic import first_line
from shared.errors import InputError

FILES = ("model.safetensors", "pytorch_model.bin")
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def load_embeddings(branch: TransformerText | AverageText, name: str | Path) -> None:
    """Load word, position and type embeddings and their norm; the average takes the words only.

    Args:
        branch: changed in place. With fewer positions than the BERT it takes the first ones.
        name: a folder with model.safetensors or pytorch_model.bin, or a model id that lies in the Hugging
            Face cache. Nothing is downloaded.

    Raises:
        InputError: no such weights, or of another vocabulary or width.
    """
    path = _find(str(name))
    found = _read(path)
    target: torch.nn.Module = branch.mBERT.embeddings if isinstance(branch, TransformerText) else branch
    for key, own in target.named_parameters():
        if isinstance(target, AverageText) and key != "word_embeddings.weight":
            continue
        value = found.get(key)
        if value is None:
            raise InputError(f"{path}: it has no tensor embeddings.{key}, expected a BERT")
        if isinstance(target, Embeddings) and key.startswith("position"):
            value = value[: len(own)]
        if value.shape != own.shape:
            raise InputError(
                f"{path}: embeddings.{key}: expected {list(own.shape)}, found {list(value.shape)}; "
                "model.text.vocab_size and hidden must be those of the BERT"
            )
        with torch.no_grad():
            own.copy_(value)


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors whose names hold `embeddings.`, without what stands before it."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys() if "embeddings." in key}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a readable safetensors file: {first_line(error)}") from None
    else:
        from shared.untrusted import load_checkpoint

        content = load_checkpoint(path)
        if not isinstance(content, dict):
            raise InputError(f"{path}: expected a state dict, found a {type(content).__name__}")
        tensors = {key: value for key, value in content.items() if "embeddings." in key}
    found = {}
    for key, value in tensors.items():
        short = key.partition("embeddings.")[2]
        found[OLD_NAMES.get(short, short)] = value
    return found


def _find(name: str) -> Path:
    folder = Path(name).expanduser()
    for file in FILES:
        if (folder / file).is_file():
            return folder / file
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        for file in FILES:
            try:
                cached = try_to_load_from_cache(name, file)
            except HFValidationError:
                break
            if isinstance(cached, str):
                return Path(cached)
    raise InputError(
        f"model.text.pretrained: no BERT {name!r}: looked for a folder of that name with {' or '.join(FILES)} "
        f"and in the Hugging Face cache; fill the cache (`hf download {name}`), name a folder, or set it to null"
    )
