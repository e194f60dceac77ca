"""Bench cases of the model: text encoder, optimiser, loss, each beside the released way restated plainly.

The released text encoder is Hugging Face's BertModel with eager attention on texts padded to 512 tokens; the
released optimiser is Adam over every row of the word table.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from projects.xmrs import optim
from projects.xmrs.losses import batch_hard_loss
from projects.xmrs.model import FoodSpaceNet
from projects.xmrs.text_encoder import TransformerText
from projects.xmrs.word_table import WordTable, compact
from shared.bench import Case, Sides, Target

MEAN_TOKENS, SPREAD = 285, 110  # of a recipe: assumed, Recipe1M's texts being gated
WORDS_THAT_OCCUR = 30_000  # of 119,547: assumed, four of mBERT's 104 languages
QUICK_TEXT = {"vocab_size": 2000, "hidden": 32, "intermediate": 64, "max_tokens": 64}


def recipes(quick: bool, batch: int = 20) -> tuple[Tensor, Tensor]:
    """Token ids padded to 512 [B, 512] (quick: 64) and lengths [B]."""
    longest, vocab_size = (64, 2000) if quick else (512, 119547)
    rng = np.random.default_rng(0)
    drawn = rng.normal(MEAN_TOKENS, SPREAD, batch).clip(40, 512) * longest // 512
    tokens = torch.from_numpy(rng.integers(1000, vocab_size, (batch, longest)))
    tokens[:, 0] = 101
    lengths = torch.from_numpy(drawn.astype(np.int64).clip(2))
    return tokens * (torch.arange(longest) < lengths[:, None]), lengths


class ReleasedText(nn.Module):
    """BertModel as the release runs it: every position of every layer, attention matrices made and returned."""

    def __init__(self, ours: TransformerText, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=sizes["vocab_size"],
            hidden_size=sizes["hidden"],
            num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["heads"],
            intermediate_size=sizes["intermediate"],
            max_position_embeddings=sizes["max_tokens"],
        )
        self.mBERT = BertModel._from_config(config, attn_implementation="eager")
        self.mBERT.load_state_dict(ours.mBERT.state_dict())

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Token ids [B, 512] -> pooled first tokens [B, H]."""
        mask = (tokens > 0).long()
        pooled: Tensor = self.mBERT(tokens, attention_mask=mask, output_attentions=True).pooler_output
        return pooled


def text_encoders(quick: bool) -> tuple[ReleasedText, TransformerText]:
    """The two encoders with the same weights."""
    torch.manual_seed(0)
    with torch.device("meta"):
        sizes = FoodSpaceNet(text=QUICK_TEXT if quick else {}).text_settings
    own = {name: value for name, value in sizes.items() if name not in ("kind", "pretrained")}
    ours = TransformerText(**own)
    return ReleasedText(ours, sizes), ours


def text_evaluation(quick: bool) -> Sides:
    """A batch of 20 recipes in evaluation mode."""
    tokens, lengths = recipes(quick)

    def run(encoder: nn.Module) -> Tensor:
        with torch.inference_mode():
            encoded: Tensor = encoder(tokens, lengths)
            return encoded

    plain, ours = (encoder.eval() for encoder in text_encoders(quick))
    return {"released": partial(run, plain), "ours": partial(run, ours)}


def text_training(quick: bool) -> Sides:
    """Forward and backward of a batch of 20 recipes, dropout 0.1.

    A side also returns how to do the same without dropout: by that results are compared.
    """
    tokens, lengths = recipes(quick)
    plain, ours = text_encoders(quick)
    plain.train()
    ours.train()
    torch.manual_seed(1)
    upstream = torch.randn(len(tokens), ours.dim)

    def step(encoder: nn.Module) -> None:
        encoder.zero_grad()
        (encoder(tokens, lengths) * upstream).sum().backward()

    def exactly(encoder: nn.Module) -> dict[str, Tensor]:
        encoder.eval()  # without dropout
        step(encoder)
        encoder.train()
        return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}

    def run(encoder: nn.Module) -> Callable[[], dict[str, Tensor]]:
        step(encoder)
        return partial(exactly, encoder)

    return {"released": partial(run, plain), "ours": partial(run, ours)}


def check_values(outputs: Mapping[str, Any]) -> str:
    """Encoded texts agree."""
    found, expected = outputs["ours"], outputs["released"]
    worst = float((found - expected).abs().max() / expected.abs().max())
    assert worst < 1e-4, f"values differ by {worst:.1e} of their maximum"
    return f"values agree to {worst:.0e} of their maximum"


def check_gradients(outputs: Mapping[str, Any]) -> str:
    """Gradients without dropout agree; those of key biases are 0 but for rounding."""
    found, expected = outputs["ours"](), outputs["released"]()
    assert found.keys() == expected.keys(), "other parameters have gradients"
    largest = max(float(value.abs().max()) for value in expected.values())
    worst = 0.0
    for name, value in expected.items():
        scale = float(value.abs().max())
        if scale > 1e-6 * largest:
            worst = max(worst, float((found[name] - value).abs().max()) / scale)
    assert worst < 1e-3, f"gradients differ by {worst:.1e} of their maximum"
    return f"all gradients without dropout agree to {worst:.0e} of their maximum"


def optimizer(quick: bool) -> Sides:
    """An Adam step of the whole model: 134 M numbers, or those that can move."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = (
        {"image": {"backbone": "resnet18", "width": 8}, "text": QUICK_TEXT} if quick else {}
    )
    plain, ours = FoodSpaceNet(**sizes), FoodSpaceNet(**sizes)
    ours.load_state_dict(plain.state_dict())
    rng = np.random.default_rng(0)
    occurring = rng.permutation(np.arange(1000, 2000 if quick else 119547))[
        : 200 if quick else WORDS_THAT_OCCUR
    ]
    table = compact(ours, occurring)
    give_gradients(plain, ours, table, torch.from_numpy(occurring[: len(occurring) // 8]))
    dense = torch.optim.Adam(plain.parameters(), lr=1e-4, foreach=False, fused=False)
    fast = optim.build_optimizer(ours, learning_rate=1e-4)

    def step(model: nn.Module, adam: torch.optim.Optimizer) -> nn.Module:
        adam.step()
        return model

    return {"released": partial(step, plain, dense), "ours": partial(step, ours, fast)}


def give_gradients(plain: nn.Module, ours: nn.Module, table: WordTable, tokens: Tensor) -> None:
    """The same gradients on both sides; in the word table only the rows of `tokens` have one."""
    own = dict(ours.named_parameters())
    for name, parameter in plain.named_parameters():
        gradient = torch.randn_like(parameter) * 1e-3
        if name.endswith("word_embeddings.weight"):
            kept = torch.zeros(len(gradient), 1)
            kept[tokens] = 1.0
            gradient *= kept
            own[name].grad = gradient[table.get_buffer("tokens")]
        else:
            own[name].grad = gradient.clone()
        parameter.grad = gradient


def check_parameters(outputs: Mapping[str, Any]) -> str:
    """Every parameter is the same after as many steps, the whole word table included."""
    found, expected = outputs["ours"].state_dict(), outputs["released"].state_dict()
    worst = max(float((found[name] - value).abs().max()) for name, value in expected.items())
    assert worst < 1e-6, f"parameters differ by {worst:.1e}"
    return f"all {len(expected)} tensors agree to {worst:.0e} (a step moves by 1e-4)"


def released_loss(images: Tensor, recipes: Tensor, margin: float = 0.3) -> Tensor:
    """The full distance matrix, then anchor by anchor its positives and negatives."""
    embeddings = nn.functional.normalize(torch.cat([images, recipes]), dim=1)
    distances = 1 - embeddings @ embeddings.t()
    pair = torch.arange(len(embeddings)) % len(images)
    terms = []
    for anchor, row in enumerate(distances):
        same = pair == pair[anchor]
        terms.append((row[same].max() - row[~same].min() + margin).clamp(min=0))
    return torch.stack(terms).mean()


def loss(quick: bool) -> Sides:
    """Batch-hard loss of 20 pairs, forward and backward."""
    torch.manual_seed(0)
    batch, dim = (8, 16) if quick else (20, 1024)
    rows = [nn.functional.normalize(torch.randn(batch, dim), dim=1) for _ in range(2)]

    def run(function: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in rows]
        value = function(*leaves)
        value.backward()
        return [value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    return {
        "released": partial(run, released_loss),
        "ours": partial(run, lambda images, texts: batch_hard_loss(images, texts)[0]),
    }


def check_loss(outputs: Mapping[str, Any]) -> str:
    """Value and gradients."""
    pairs = zip(outputs["ours"], outputs["released"], strict=True)
    worst = max(float((found - expected).abs().max() / expected.abs().max()) for found, expected in pairs)
    assert worst < 1e-4, f"value or gradients differ by {worst:.1e} of their maximum"
    return f"value and gradients agree to {worst:.0e} of their maximum"


CASES = [
    Case(
        "text_eval",
        f"text encoder, 20 recipes of {MEAN_TOKENS} +- {SPREAD} tokens, evaluation",
        text_evaluation,
        check_values,
        (Target("ours", "released", 2.5),),
    ),
    Case(
        "text_train",
        "text encoder, the same, forward + backward with dropout 0.1",
        text_training,
        check_gradients,
        (Target("ours", "released", 1.7),),
    ),
    Case(
        "optimizer",
        f"Adam step of FoodSpaceNet; {WORDS_THAT_OCCUR:,} of 119,547 tokens occur",
        optimizer,
        check_parameters,
        (Target("ours", "released", 3.0),),
    ),
    Case(
        "loss",
        "batch-hard loss forward + backward, 20 pairs x 1024",
        loss,
        check_loss,
        (Target("ours", "released"),),
    ),
]
