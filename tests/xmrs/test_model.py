"""FoodSpaceNet as a whole: the sphere, the shared layer, what it refuses, its image branch alone."""

import pytest
import torch

from projects.xmrs.image_encoder import to_sphere
from projects.xmrs.model import FoodSpaceNet, image_encoder_of
from shared.errors import InputError
from tests.xmrs.tiny_models import IMAGE, TEXT, photos, texts, tiny_model


@pytest.mark.parametrize("kind", ["transformer", "average"])
def test_embeddings_are_unit_rows_that_depend_on_their_own_item_only(kind: str) -> None:
    model = tiny_model(kind=kind)
    tokens, images = texts([9, 4, 17]), photos(3)
    recipes, visual = model.encode_recipes(tokens), model.encode_images(images)
    for rows in (recipes, visual):
        assert rows.shape == (3, 8)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(model.encode_recipes(tokens[[2, 0]]), recipes[[2, 0]], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.encode_recipes(tokens[1:2, :4]), recipes[1:2], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.encode_images(images[[2, 0]]), visual[[2, 0]], atol=1e-5, rtol=1e-4)
    assert (recipes[0] - recipes[1]).abs().max() > 1e-3


def test_word_order_matters_to_the_transformer_and_not_to_the_average() -> None:
    tokens = texts([9])
    turned = torch.cat([tokens[:, :1], tokens[:, 1:].flip(1)], dim=1)
    for kind, differs in (("transformer", True), ("average", False)):
        model = tiny_model(kind=kind)
        difference = (model.encode_recipes(tokens) - model.encode_recipes(turned)).abs().max()
        assert (difference > 1e-3) == differs


def test_the_alignment_layer_is_shared() -> None:
    model = tiny_model().train()
    model.encode_images(photos(3)).sum().backward()
    of_images = model.align[0].weight.grad.clone()
    assert model.textMLP.mBERT.pooler["dense"].weight.grad is None  # type: ignore[union-attr, index]
    model.encode_recipes(texts([5, 7, 2])).sum().backward()
    assert (model.align[0].weight.grad - of_images).abs().max() > 0
    names = [name for name, _ in model.named_children()]
    assert names == [
        "visionMLP",
        "visual_embedding",
        "align_img",
        "textMLP",
        "recipe_embedding",
        "align_rec",
        "align",
    ]


def test_the_image_branch_alone_is_a_copy() -> None:
    model = tiny_model()
    encoder = image_encoder_of(model)
    images = photos(2)
    expected = model.encode_images(images).detach()
    assert torch.equal(encoder(images), expected)
    assert not encoder.training
    assert set(encoder.state_dict()) < set(model.state_dict())
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(encoder(images), expected)


def test_attention_is_a_distribution_over_the_real_tokens() -> None:
    model = tiny_model()
    attention = model.text_attention(texts([9, 4], width=12))
    assert [tuple(layer.shape) for layer in attention] == [(2, 2, 12, 12)] * 2
    for layer in attention:
        torch.testing.assert_close(layer.sum(-1), torch.ones(2, 2, 12))
        assert layer[1, :, :, 4:].abs().max() == 0
    with pytest.raises(InputError, match=r"model.text.kind: an average of word embeddings has no attention"):
        tiny_model(kind="average").text_attention(texts([3]))


def test_wrong_settings_are_named() -> None:
    for arguments, message in (
        (
            {"text": {**TEXT, "kind": "lstm"}},
            "model.text.kind: expected one of transformer, average, found 'lstm'",
        ),
        ({"text": {"depth": 3}}, "model.text.depth: no such setting; there are kind, vocab_size, "),
        ({"image": {"size": 3}}, "model.image.size: no such setting; there are backbone, width, "),
        (
            {"text": TEXT, "image": {"backbone": "alexnet"}},
            "model.image.backbone: expected one of resnet18, resnet34, ",
        ),
        (
            {"text": {**TEXT, "pretrained": "no/bert"}, "image": IMAGE},
            "model.text.pretrained: no BERT 'no/bert'",
        ),
    ):
        with pytest.raises(InputError) as raised:
            FoodSpaceNet(**arguments)  # type: ignore[arg-type]
        assert str(raised.value).startswith(message)


def test_a_zero_row_stays_zero_on_the_sphere() -> None:
    rows = to_sphere(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_reduced_precision_stays_near() -> None:
    model, images, tokens = tiny_model(), photos(3), texts([9, 4, 17])
    with torch.autocast("cpu", torch.bfloat16):
        visual, recipes = model.encode_images(images), model.encode_recipes(tokens)
    assert visual.dtype == recipes.dtype == torch.float32
    for found, expected in ((visual, model.encode_images(images)), (recipes, model.encode_recipes(tokens))):
        assert (found * expected).sum(1).min() > 0.99
