"""FoodSpaceNet: photographs and recipes onto one unit sphere (paper section 3)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from projects.xmrs import image_encoder, pretrained_text
from projects.xmrs.image_encoder import FoodSpaceImageEncoder, ImageBackbone, to_sphere
from projects.xmrs.text_encoder import AverageText, TransformerText
from shared.errors import InputError

IMAGE_SETTINGS = {"backbone": "resnet50", "width": 64, "pretrained": False, "weights": None}
TEXT_SETTINGS = {
    "kind": "transformer",
    "vocab_size": 119547,
    "hidden": 768,
    "layers": 2,
    "heads": 2,
    "intermediate": 3072,
    "max_tokens": 512,
    "dropout": 0.1,
    "init_std": 0.02,
    "pretrained": None,
}
TEXT_KINDS = ("transformer", "average")


class FoodSpaceNet(nn.Module):
    """Image branch, text branch, and the linear layer `align` that both share.

    Args:
        embed_dim: D, dimensions of the sphere's space.
        head_dim: width between a branch and the shared layer.
        image: backbone (resnet18 ... resnet152), width (64), pretrained (ImageNet weights: of the file
            `weights`, or of torch's hub cache), weights.
        text: kind (transformer, or average of word embeddings), vocab_size, hidden, layers, heads,
            intermediate, max_tokens, dropout (of training), init_std (0.02 as in BERT; a narrow transformer
            needs more for its signal to start), pretrained (folder or cached name of a BERT, whose
            embeddings are taken; its layers are not).

    Raises:
        InputError: an unknown kind, backbone or setting; pretrained weights that are not there or do not fit.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 1024,
        head_dim: int = 1024,
        image: Mapping[str, Any] | None = None,
        text: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        of_image = _completed("image", image, IMAGE_SETTINGS)
        of_text = _completed("text", text, TEXT_SETTINGS)
        self.embed_dim, self.head_dim, self.text_settings = embed_dim, head_dim, of_text
        self.visionMLP = ImageBackbone(backbone=of_image["backbone"], width=of_image["width"])
        self.visual_embedding = image_encoder.embedding_head(self.visionMLP.dim, head_dim)
        self.align_img = image_encoder.alignment_head(embed_dim)
        self.textMLP = _text_branch(of_text)
        self.recipe_embedding = image_encoder.embedding_head(self.textMLP.dim, head_dim)
        self.align_rec = image_encoder.alignment_head(embed_dim)
        self.align = nn.Sequential(nn.Linear(head_dim, embed_dim))
        if of_image["pretrained"] or of_image["weights"]:
            image_encoder.load_pretrained(self.visionMLP, of_image["weights"])
        if of_text["pretrained"]:
            pretrained_text.load_embeddings(self.textMLP, of_text["pretrained"])

    def encode_images(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] -> unit vectors [B, D]."""
        return to_sphere(self.align_img(self.align(self.visual_embedding(self.visionMLP(images)))))

    def encode_recipes(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Token ids [B, L] padded with 0, lengths [B] (None: ids above 0) -> unit vectors [B, D]."""
        pooled = self.textMLP(tokens, lengths)
        return to_sphere(self.align_rec(self.align(self.recipe_embedding(pooled))))

    def text_attention(self, tokens: Tensor) -> list[Tensor]:
        """Attention weights of each layer, [B, heads, L, L], for token ids [B, L] padded with 0.

        Raises:
            InputError: the average of word embeddings has no attention.
        """
        if not isinstance(self.textMLP, TransformerText):
            raise InputError("model.text.kind: an average of word embeddings has no attention to show")
        return self.textMLP.attention(tokens)


def image_encoder_of(model: FoodSpaceNet) -> FoodSpaceImageEncoder:
    """A copy of the model's image branch, in the model's mode and on its device."""
    with torch.device("meta"):
        encoder = FoodSpaceImageEncoder(
            embed_dim=model.embed_dim,
            head_dim=model.head_dim,
            backbone=model.visionMLP.backbone,
            width=model.visionMLP.width,
        )
    for name, part in encoder.named_children():
        own = {key: value.clone() for key, value in model.get_submodule(name).state_dict().items()}
        part.load_state_dict(own, assign=True)
    return encoder.train(model.training)


def _completed(name: str, given: Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(given or {}) - set(defaults))
    if unknown:
        raise InputError(f"model.{name}.{unknown[0]}: no such setting; there are {', '.join(defaults)}")
    return {**defaults, **(given or {})}


def _text_branch(settings: Mapping[str, Any]) -> TransformerText | AverageText:
    kind = settings["kind"]
    if kind not in TEXT_KINDS:
        raise InputError(f"model.text.kind: expected one of {', '.join(TEXT_KINDS)}, found {kind!r}")
    if kind == "average":
        names: tuple[str, ...] = ("vocab_size", "hidden", "init_std")
        return AverageText(**{name: settings[name] for name in names})
    return TransformerText(
        **{name: value for name, value in settings.items() if name not in ("kind", "pretrained")}
    )
