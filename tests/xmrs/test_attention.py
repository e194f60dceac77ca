"""Attention over the words of a recipe, against the equations of a transformer."""

import numpy as np
import pytest
import torch

from projects.xmrs import attention
from projects.xmrs.attention import Weighed
from projects.xmrs.model import FoodSpaceNet
from projects.xmrs.words import Word
from shared.errors import InputError
from tests.xmrs.test_user_recipes import PIECES, ids

TEXTS = [
    ids("[CLS]", "tom", "##ato", "##es", "soup", ".", "salt", "[SEP]"),
    ids("[CLS]", "hot", "soup", "[SEP]"),
]


def network(kind: str = "transformer") -> FoodSpaceNet:
    torch.manual_seed(0)
    text = {
        "kind": kind,
        "vocab_size": len(PIECES),
        "hidden": 12,
        "layers": 2,
        "heads": 3,
        "intermediate": 20,
    }
    model = FoodSpaceNet(
        embed_dim=8, head_dim=8, image={"backbone": "resnet18", "width": 8}, text={**text, "max_tokens": 16}
    )
    for name, parameter in model.textMLP.named_parameters():
        if "weight" in name and parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.4)  # sharp enough to tell words apart
    return model


def attention_by_hand(model: FoodSpaceNet, tokens: np.ndarray) -> np.ndarray:
    """softmax(q k^T / sqrt(d)) of [CLS], [layers, heads, L], written out."""
    state = {key.removeprefix("mBERT."): value for key, value in model.textMLP.state_dict().items()}

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-12)
        return scaled * state[f"{name}.LayerNorm.weight"] + state[f"{name}.LayerNorm.bias"]

    count = len(tokens)
    x = state["embeddings.word_embeddings.weight"][torch.from_numpy(tokens)]
    x = x + state["embeddings.position_embeddings.weight"][:count]
    x = norm(x + state["embeddings.token_type_embeddings.weight"][0], "embeddings")
    rows = []
    for layer in range(2):
        at = f"encoder.layer.{layer}"
        q, k, v = (
            linear(x, f"{at}.attention.self.{name}").view(count, 3, 4).transpose(0, 1)
            for name in ("query", "key", "value")
        )
        weights = torch.softmax(q @ k.transpose(1, 2) / 4**0.5, -1)
        rows.append(weights[:, 0])
        mixed = (weights @ v).transpose(0, 1).reshape(count, 12)
        x = norm(x + linear(mixed, f"{at}.attention.output.dense"), f"{at}.attention.output")
        inner = torch.nn.functional.gelu(linear(x, f"{at}.intermediate.dense"))
        x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output")
    return torch.stack(rows).numpy()


def test_a_words_weight_is_the_sum_over_its_pieces() -> None:
    model = network().train()
    found = attention.attention_of(model, TEXTS, PIECES)
    assert model.training
    assert [word.text for word in found[0].words] == ["[CLS]", "tomatoes", "soup", ".", "salt", "[SEP]"]
    for weighed, text in zip(found, TEXTS, strict=True):
        expected = attention_by_hand(model, text)
        summed = [expected[:, :, word.first : word.last].sum(-1) for word in weighed.words]
        np.testing.assert_allclose(weighed.weights, np.stack(summed, -1), atol=1e-5)
        np.testing.assert_allclose(weighed.weights.sum(-1), 1, atol=1e-5)
        assert weighed.weights.shape == (2, 3, len(weighed.words))
        assert np.ptp(weighed.weights, axis=-1).min() > 0.01


def test_layers_and_heads_are_chosen() -> None:
    [found] = attention.attention_of(network(), TEXTS[:1], PIECES)
    np.testing.assert_array_equal(found.of(0, 2), found.weights[0, 2])
    np.testing.assert_array_equal(found.of(-1), found.weights[1].mean(0))
    for layer, head, words in ((2, None, "attention.layer"), (-3, 0, "layer"), (0, 3, "attention.head")):
        with pytest.raises(InputError, match=words):
            found.of(layer, head)


def test_an_average_of_word_embeddings_has_none() -> None:
    model = network("average")
    assert not attention.has_attention(model)
    with pytest.raises(InputError, match="no attention"):
        attention.attention_of(model, TEXTS, PIECES)


def weighed() -> Weighed:
    texts = ("[CLS]", "soup", ".", "salt", "soup")
    words = tuple(Word(text, i, i + 1) for i, text in enumerate(texts))
    return Weighed(words, np.array([[[0.4, 0.1, 0.2, 0.05, 0.25]]], np.float32))


def test_the_strongest_words_are_summed_without_marks() -> None:
    found = attention.strongest(weighed(), weighed().of())
    assert [(word, round(weight, 3)) for word, weight in found] == [("soup", 0.35), ("salt", 0.05)]
    assert len(attention.strongest(weighed(), weighed().of(), 1)) == 1


def test_text_shows_strength_with_and_without_colour() -> None:
    plain = attention.as_text(weighed(), weighed().of(), colour=False)
    assert plain == "[CLS]*** soup* .** salt soup**"
    coloured = attention.as_text(weighed(), weighed().of(), colour=True)
    assert coloured.startswith("\x1b[38;5;16;48;5;196m[CLS]\x1b[0m")
    assert " salt " in coloured
    rude = Weighed((Word("a\x1b[31m", 0, 1),), np.ones((1, 1, 1), np.float32))
    assert "\x1b" not in attention.as_text(rude, rude.of(), colour=False)
    nothing = np.zeros(5, np.float32)
    assert attention.shades(nothing).tolist() == [0.0] * 5
