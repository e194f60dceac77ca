"""CLIP (Radford et al., ICML 2021) with a vision transformer, under the tensor names of OpenAI's files.

The embedded stand-in is this class with small sizes. The last visual block is apart (`VisionTransformer.trunk`,
`.head`), because only its CLS row is ever used. Matrices may be of lower precision than the rest
(`in_precision`): norms and the sums of the residual stream stay in float32.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.errors import InputError

ACTIVATIONS = ("quick_gelu", "gelu")


class Attention(nn.Module):
    """Self-attention of `heads` heads, softmax(q k^T / sqrt(width / heads)); [B, N, D] -> [B, N, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def split(self, projected: Tensor) -> Tensor:
        """[B, N, D] -> [B, heads, N, D / heads]."""
        return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """causal: a token sees itself and those before it."""
        x = x.to(self.in_proj_weight.dtype)
        query, key, value = map(self.split, F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def row(self, x: Tensor, query_rows: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Attention of the first `query_rows` tokens, with what it is made of.

        x: [B, N, D]. Returns: the mixed values before the output projection [B, rows, D], the softmax weights
        [B, heads, rows, N], the values [B, heads, N, D / heads].
        """
        x, width = x.to(self.in_proj_weight.dtype), x.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        query = self.split(F.linear(x[:, :query_rows], weight[:width], bias[:width]))
        key, value = map(self.split, F.linear(x, weight[width:], bias[width:]).chunk(2, -1))
        scale = (width // self.heads) ** -0.5
        weights = ((query * scale) @ key.transpose(-1, -2)).softmax(-1)
        return (weights @ value).transpose(1, 2).flatten(2), weights, value


class FeedForward(nn.Module):
    """Linear, QuickGELU x sigmoid(1.702 x) (open_clip's own weights: GELU), Linear."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def activate(self, hidden: Tensor) -> Tensor:
        """The nonlinearity alone."""
        return hidden * torch.sigmoid(1.702 * hidden) if self.activation == "quick_gelu" else F.gelu(hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        out: Tensor = self.c_proj(self.activate(self.c_fc(x.to(self.c_fc.weight.dtype))))
        return out


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, activation: str) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, activation)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = x + self.attn(self.ln_1(x), causal)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out

    def first_row(self, x: Tensor) -> Tensor:
        """The block's output for token 0 alone: [B, N, D] -> [B, D]."""
        mixed, _, _ = self.attn.row(self.ln_1(x))
        y = x[:, 0] + self.attn.out_proj(mixed[:, 0])
        out: Tensor = y + self.mlp(self.ln_2(y))
        return out


class Transformer(nn.Module):
    """Blocks in a row."""

    def __init__(self, width: int, layers: int, heads: int, activation: str) -> None:
        super().__init__()
        self.width = width
        self.resblocks = nn.ModuleList(Block(width, heads, activation) for _ in range(layers))

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        for block in self.resblocks:
            x = block(x, causal)
        return x


class VisionTransformer(nn.Module):
    """Patches and a class token (CLS, row 0) -> one feature per image."""

    def __init__(
        self,
        image_size: int,
        patch: int,
        width: int,
        layers: int,
        heads: int,
        embedding: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.image_size, self.patch, self.grid = image_size, patch, image_size // patch
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(self.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, activation)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embedding))

    def embed(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] normalised -> tokens [B, 1 + g^2, D]; InputError for another side than `image_size`."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise InputError(
                f"CLIP: expected images of {self.image_size} x {self.image_size} pixels, found "
                f"{images.shape[-2]} x {images.shape[-1]}"
            )
        patches = self.conv1(images.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        cls = self.class_embedding.expand(len(patches), 1, -1)
        tokens: Tensor = self.ln_pre(torch.cat([cls, patches], 1) + self.positional_embedding)
        return tokens

    def trunk(self, images: Tensor, blocks: int = -1) -> Tensor:
        """Tokens [B, 1 + g^2, D] after the first `blocks` blocks; -1: those that enter the last one."""
        x = self.embed(images)
        for block in list(self.transformer.resblocks)[:blocks]:
            x = block(x)
        return x

    def project(self, tokens: Tensor) -> Tensor:
        """ln_post and the projection: [..., D] -> [..., E], not normalised."""
        out: Tensor = self.ln_post(tokens) @ self.proj
        return out

    def head(self, tokens: Tensor) -> Tensor:
        """The last block, for CLS alone, and the projection: what `trunk` gave -> image features [B, E]."""
        block = self.transformer.resblocks[-1]
        assert isinstance(block, Block)
        return self.project(block.first_row(tokens))

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> image features [B, E], not normalised."""
        return self.head(self.trunk(images))


class CLIP(nn.Module):
    """Image and text encoder; `sizes` are the arguments of `build_clip` that made it."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.sizes = dict(sizes)
        s = self.sizes
        self.visual = VisionTransformer(
            s["image_size"], s["patch"], s["width"], s["layers"], s["heads"], s["embedding"], s["activation"]
        )
        self.transformer = Transformer(s["text_width"], s["text_layers"], s["text_heads"], s["activation"])
        shape = (s["vocabulary"], s["text_width"])
        # on "meta" drawing its weights would import torch._dynamo, which takes seconds
        undrawn = torch.empty(shape) if torch.get_default_device().type == "meta" else None
        self.token_embedding = nn.Embedding(*shape, _weight=undrawn)
        self.positional_embedding = nn.Parameter(torch.empty(s["context"], s["text_width"]))
        self.ln_final = nn.LayerNorm(s["text_width"])
        self.text_projection = nn.Parameter(torch.empty(s["text_width"], s["embedding"]))
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07, device="cpu").log())

    def encode_image(self, images: Tensor) -> Tensor:
        """[B, 3, S, S], normalised -> [B, E], not of unit norm."""
        features: Tensor = self.visual(images)
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        """[B, context] ids -> [B, E], not of unit norm: the row of the end token, which has the highest id."""
        end = tokens.argmax(-1)
        tokens = tokens[:, : int(end.max()) + 1]  # causal: what follows the end changes nothing
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = self.transformer(x, causal=True)
        rows = x[torch.arange(len(x), device=x.device), end]
        features: Tensor = self.ln_final(rows) @ self.text_projection
        return features


def build_clip(
    *,
    image_size: int = 224,
    patch: int = 32,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    text_width: int = 512,
    text_layers: int = 12,
    text_heads: int = 8,
    context: int = 77,
    vocabulary: int = 49408,
    embedding: int = 512,
    activation: str = "quick_gelu",
    initialize: bool = True,
) -> CLIP:
    """CLIP of these sizes; the defaults are ViT-B/32. initialize=False leaves the weights undefined, to be loaded.

    InputError: sizes that do not go together.
    """
    sizes = {name: value for name, value in locals().items() if name != "initialize"}
    if activation not in ACTIVATIONS:
        raise InputError(f"clip.activation: expected one of {', '.join(ACTIVATIONS)}, found {activation!r}")
    for whole, part in (("image_size", "patch"), ("width", "heads"), ("text_width", "text_heads")):
        if sizes[part] < 1 or sizes[whole] % sizes[part]:
            raise InputError(
                f"clip.{part}: expected a divisor of {whole} {sizes[whole]}, found {sizes[part]}"
            )
    if layers < 1:
        raise InputError(f"clip.layers: expected at least 1, found {layers}")
    if not initialize:
        with torch.device("meta"):
            model = CLIP(sizes)
        return model.to_empty(device="cpu")
    model = CLIP(sizes)
    _initialize(model)
    return model


def in_precision(visual: VisionTransformer, dtype: torch.dtype) -> VisionTransformer:
    """A frozen copy that multiplies its matrices in `dtype`; for float32 it is `visual` itself."""
    if dtype == torch.float32:
        return visual
    made = copy.deepcopy(visual).requires_grad_(False).eval()
    for module in made.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(dtype)
        elif isinstance(module, Attention):
            module.in_proj_weight.data = module.in_proj_weight.data.to(dtype)
            module.in_proj_bias.data = module.in_proj_bias.data.to(dtype)
    return made


def _initialize(model: CLIP) -> None:
    """CLIP's initialisation: normal, with deviations from width and depth."""
    visual = model.visual
    scale = visual.transformer.width**-0.5
    for parameter in (visual.class_embedding, visual.positional_embedding, visual.proj):
        nn.init.normal_(parameter, std=scale)
    for transformer in (visual.transformer, model.transformer):
        width, layers = transformer.width, len(transformer.resblocks)
        for block in transformer.resblocks:
            assert isinstance(block, Block)
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=width**-0.5 * (2 * layers) ** -0.5)
            nn.init.zeros_(block.attn.out_proj.bias)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=width**-0.5 * (2 * layers) ** -0.5)
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    nn.init.normal_(model.positional_embedding, std=0.01)
    nn.init.normal_(model.text_projection, std=model.transformer.width**-0.5)
