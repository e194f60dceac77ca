"""The embedded stand-in for CLIP: trained once on pictures of the embedded objects, then frozen.

Like CLIP it knows names that the 3D networks never see in training: it stands for "trained on everything". Its
vision transformer has the grid of ViT-B/32 (7 x 7 patches and CLS), on pictures of 56 pixels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from projects.semabs import mini_clip_training as training
from projects.semabs.clip_model import CLIP, build_clip
from projects.semabs.clip_tokenizer import WordTokenizer, split_words
from projects.semabs.clip_weights import save_clip
from projects.semabs.mini_clip_pictures import Pictures
from projects.semabs.mini_clip_training import Progress
from projects.semabs.mini_names import NAMES, SYNONYMS
from shared.made_once import make_once

__all__ = ["DEFAULTS", "FOLDER", "Progress", "ensure", "weights_path"]
FORMAT = 1  # raised whenever the same settings give other weights
FOLDER = "clip"  # in the folder of the embedded rooms
SIZES: dict[str, Any] = {
    "image_size": 56,
    "patch": 8,
    "width": 96,
    "layers": 3,
    "heads": 4,
    "text_width": 64,
    "text_layers": 1,
    "text_heads": 4,
    "context": 32,
    "embedding": 64,
}
DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "steps": 1829,
    "batch_size": 32,
    "sprites": 24,
    "rooms": 250,
    "room_side": 128,
    "regions": "names",
}


def weights_path(root: Path | str) -> Path:
    """Where the stand-in of the rooms in `root` lies."""
    return Path(root) / FOLDER / "clip.pt"


def ensure(
    root: Path | str,
    *,
    seed: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    sprites: int | None = None,
    rooms: int | None = None,
    room_side: int | None = None,
    regions: str | None = None,
    after_step: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train the stand-in of the rooms in `root` on first use; return its weights file (`load_clip` reads it).

    About three minutes on one core with the default settings. A setting left out takes its default in a new
    folder, any value in an old one. Two processes may race: the loser discards its copy.
    """
    asked = {name: value for name, value in locals().items() if name not in ("root", "after_step")}

    def write(folder: Path, settings: dict[str, Any]) -> None:
        model, tokenizer = _trained(settings, after_step)
        save_clip(folder / "clip.pt", model, tokenizer)

    make_once(Path(root) / FOLDER, {**asked, "format": FORMAT}, {**DEFAULTS, "format": FORMAT}, write)
    return weights_path(root)


def words() -> list[str]:
    """Every word of the stand-in's texts."""
    relations = (*training.LATERAL, *training.OTHER_RELATIONS, "a")
    texts = [*NAMES, *SYNONYMS.values(), *training.PROMPTS, *relations]
    return sorted({word for text in texts for word in split_words(text)})


def _trained(settings: dict[str, Any], after_step: Callable[[Progress], None]) -> tuple[CLIP, WordTokenizer]:
    """Weights that depend on the settings alone: torch's own generator is left as it was."""
    tokenizer = WordTokenizer(words(), context=SIZES["context"])
    pictures = Pictures(
        seed=settings["seed"],
        sprites=settings["sprites"],
        rooms=settings["rooms"],
        room_side=settings["room_side"],
        side=SIZES["image_size"],
        patch=SIZES["patch"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        model = build_clip(**SIZES, vocabulary=tokenizer.vocabulary)
        training.train(
            model,
            tokenizer,
            pictures,
            steps=settings["steps"],
            batch_size=settings["batch_size"],
            seed=settings["seed"],
            regions=settings["regions"],
            after_step=after_step,
        )
    return model, tokenizer
