"""CLIP with weights: OpenAI's, Hugging Face's and open_clip's files, and the embedded stand-in's.

Nothing in a file is executed. Names ("ViT-B/32") are looked up in the caches of OpenAI's, Hugging Face's and
open_clip's programs; nothing is fetched.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from projects.semabs import clip_torchscript
from projects.semabs.clip_model import CLIP, build_clip
from projects.semabs.clip_tokenizer import BytePairTokenizer, Tokenizer, from_settings
from shared.checkpoint import load_strictly
from shared.errors import InputError
from shared.files import atomic_write, read_json

State = dict[str, Tensor]
FORMAT = "wordsight-clip-1"
PER_HEAD = 64  # channels of a head in every CLIP of OpenAI
FILES = (
    *("model.safetensors", "pytorch_model.bin"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "clip.pt"),
)
# name: (file in OpenAI's cache, repositories of the Hugging Face hub)
NAMES = {
    "ViT-B/32": ("ViT-B-32.pt", ("openai/clip-vit-base-patch32", "timm/vit_base_patch32_clip_224.openai")),
    "ViT-B/16": ("ViT-B-16.pt", ("openai/clip-vit-base-patch16", "timm/vit_base_patch16_clip_224.openai")),
    "ViT-L/14": ("ViT-L-14.pt", ("openai/clip-vit-large-patch14", "timm/vit_large_patch14_clip_224.openai")),
    "ViT-L/14@336px": (
        "ViT-L-14-336px.pt",
        ("openai/clip-vit-large-patch14-336", "timm/vit_large_patch14_clip_336.openai"),
    ),
}
OPENAI_CACHE = Path("~/.cache/clip")
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers in OpenAI's files
_HF_PLACES = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # [sic]
    "vision_model.post_layernorm": "visual.ln_post",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
    "logit_scale": "logit_scale",
}
_HF_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


@dataclass(frozen=True)
class LoadedClip:
    """A frozen CLIP in evaluation mode, with the tokenizer it was trained with."""

    model: CLIP
    tokenizer: Tokenizer
    name: str
    image_size: int


def load_clip(source: str | Path, *, activation: str | None = None) -> LoadedClip:
    """CLIP from a name of NAMES, a repository in the hub's cache (`owner/name`), a file, or a folder of one.

    activation: quick_gelu | gelu; None = as the settings beside the file say, else quick_gelu, as OpenAI's.
    InputError: nothing found, damaged, asks for code, or no CLIP with a vision transformer.
    """
    path, settings = _locate(str(source))
    content = _read(path)
    if content.get("format") == FORMAT:
        return _own(content, path)
    state = openai_names(content, path)
    sizes = sizes_of(state, path)
    heads = _heads_of(settings)
    sizes |= heads | {"activation": activation or _activation_of(settings)}
    model = build_clip(**sizes, initialize=False)
    _fill(model, state, path)
    tokenizer = BytePairTokenizer(sizes["context"])
    if tokenizer.vocabulary != sizes["vocabulary"]:
        raise InputError(
            f"{path}: {sizes['vocabulary']} tokens, expected {tokenizer.vocabulary}, as CLIP's tokenizer has"
        )
    return LoadedClip(model, tokenizer, str(source), sizes["image_size"])


def save_clip(path: str | Path, model: CLIP, tokenizer: Tokenizer) -> None:
    """Write the model, its sizes and its tokenizer (with the words it knows) into one file, atomically."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    content = {
        "format": FORMAT,
        "sizes": model.sizes,
        "tokenizer": tokenizer.settings(),
        "state": state,
    }
    with atomic_write(Path(path)) as file:
        torch.save(content, file)


def _own(content: Mapping[str, Any], path: Path) -> LoadedClip:
    try:
        sizes, settings, state = content["sizes"], content["tokenizer"], content["state"]
        tokenizer = from_settings(settings)
        model = build_clip(**sizes, initialize=False)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: a stand-in's file with {error}: expected sizes, tokenizer, state"
        ) from None
    if tokenizer.vocabulary != sizes["vocabulary"] or tokenizer.context != sizes["context"]:
        raise InputError(
            f"{path}: a tokenizer of {tokenizer.vocabulary} ids and rows of {tokenizer.context}, expected "
            f"{sizes['vocabulary']} and {sizes['context']}"
        )
    _fill(model, state, path)
    return LoadedClip(model, tokenizer, path.stem, sizes["image_size"])


def _fill(model: CLIP, state: Mapping[str, Tensor], path: Path) -> None:
    wanted = {name: value.float() for name, value in state.items() if isinstance(value, Tensor)}
    load_strictly(model, wanted, source=str(path))
    model.requires_grad_(False).eval()


def openai_names(state: Mapping[str, Any], source: Path | str) -> State:
    """A state dict of Hugging Face, open_clip or OpenAI under OpenAI's names, in float32."""
    if isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    found = {str(key).removeprefix("module."): value for key, value in state.items()}
    found = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    if any(key.startswith("vision_model.") for key in found):
        found = _from_hugging_face(found)
    found = {key: value.float() for key, value in found.items() if key not in (*_NOT_WEIGHTS, "attn_mask")}
    if "visual.conv1.weight" not in found or "visual.proj" not in found or "text_projection" not in found:
        raise InputError(
            f"{source}: expected a CLIP with a vision transformer (visual.conv1.weight, visual.proj, "
            f"text_projection), found {len(found)} tensors: {', '.join(list(found)[:3]) or 'none'}"
        )
    return found


def _from_hugging_face(state: Mapping[str, Tensor]) -> State:
    found: State = {}
    for key, value in state.items():
        if key.endswith("position_ids"):
            continue
        block = re.fullmatch(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
        if block:
            prefix = "visual." if block[1] == "vision" else ""
            place = f"{prefix}transformer.resblocks.{block[2]}"
            if block[3] == "self_attn.q_proj":  # query, key and value are one matrix in OpenAI's files
                parts = [state[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
                found[f"{place}.attn.in_proj_{block[4]}"] = torch.cat(parts)
            elif block[3] in _HF_BLOCK:
                found[f"{place}.{_HF_BLOCK[block[3]]}.{block[4]}"] = value
        elif key in _HF_PLACES:
            turned = key in ("visual_projection.weight", "text_projection.weight")
            found[_HF_PLACES[key]] = value.T.contiguous() if turned else value
        else:
            stem, _, leaf = key.rpartition(".")
            found[f"{_HF_PLACES.get(stem, stem)}.{leaf}"] = value
    return found


def sizes_of(state: Mapping[str, Tensor], source: Path | str) -> dict[str, Any]:
    """Arguments of `build_clip` read off the shapes (heads of 64 channels); InputError names a missing tensor."""

    def layers(prefix: str) -> int:
        return len({key.split(".resblocks.")[1].split(".")[0] for key in state if key.startswith(prefix)})

    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
        text_width, embedding = state["text_projection"].shape
        return {
            "image_size": grid * patch,
            "patch": patch,
            "width": width,
            "layers": layers("visual.transformer.resblocks."),
            "heads": max(1, width // PER_HEAD),
            "text_width": text_width,
            "text_layers": layers("transformer.resblocks."),
            "text_heads": max(1, text_width // PER_HEAD),
            "context": len(state["positional_embedding"]),
            "vocabulary": len(state["token_embedding.weight"]),
            "embedding": embedding,
        }
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{source}: not a CLIP with a vision transformer: {error}") from None


def _heads_of(settings: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads where Hugging Face's settings name them."""
    found = {}
    for name, part in (("heads", "vision_config"), ("text_heads", "text_config")):
        heads = _part(settings, part).get("num_attention_heads")
        if isinstance(heads, int):
            found[name] = heads
    return found


def _activation_of(settings: Mapping[str, Any]) -> str:
    named = _part(settings, "vision_config").get("hidden_act")
    quick = _part(settings, "model_cfg").get("quick_gelu", "model_cfg" not in settings)
    return str(named) if named else "quick_gelu" if quick else "gelu"


def _part(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = settings.get(name)
    return part if isinstance(part, Mapping) else {}


def _read(path: Path) -> Mapping[str, Any]:
    from shared.untrusted import load_checkpoint

    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a readable safetensors file: {error}") from None
    if clip_torchscript.is_program(path):
        return clip_torchscript.read_program(path)
    content = load_checkpoint(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: expected tensors by name, found a {type(content).__name__}")
    return content


def _locate(source: str) -> tuple[Path, Mapping[str, Any]]:
    """The file of weights and the settings beside it ({} where there are none)."""
    path = Path(source).expanduser()
    if path.is_dir():
        found = [path / name for name in FILES if (path / name).is_file()]
        if not found:
            raise InputError(f"{path}: expected one of {', '.join(FILES)} in this folder, found none")
        return found[0], _settings_beside(found[0])
    if path.is_file():
        return path, _settings_beside(path)
    repositories: tuple[str, ...]
    if source in NAMES:
        file, repositories = NAMES[source]
        local = (OPENAI_CACHE / file).expanduser()
        if local.is_file():
            return local, {}
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not path.suffix:
        repositories = (source,)
    else:
        raise InputError(f"clip: no such file {source}, and no name of CLIP's: {', '.join(NAMES)}")
    for repository in repositories:
        for name in FILES:
            cached = _cached(repository, name)
            if cached:
                return cached, _settings_beside(cached)
    raise InputError(
        f"clip {source}: not in the caches of this machine; fetch it once with `hf download {repositories[0]}`, "
        "or name a file or folder"
    )


def _settings_beside(path: Path) -> Mapping[str, Any]:
    name = "open_clip_config.json" if path.name.startswith("open_clip") else "config.json"
    if path.suffix not in (".safetensors", ".bin") or not (path.parent / name).is_file():
        return {}
    settings = read_json(path.parent / name)
    return settings if isinstance(settings, Mapping) else {}


def _cached(repository: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None
