"""The two branches against torchvision's ResNet and Hugging Face's BertModel."""

import itertools
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from projects.xmrs import image_encoder, packed_attention, pretrained_text, text_encoder
from projects.xmrs.image_encoder import ImageBackbone
from projects.xmrs.text_encoder import AverageText, Transformer, TransformerText
from shared.errors import InputError
from tests.xmrs.tiny_models import TEXT, texts, tiny_model

LENGTHS = [9, 1, 30, 17]


@pytest.fixture
def hugging_face() -> BertModel:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=TEXT["vocab_size"],
        hidden_size=TEXT["hidden"],
        num_hidden_layers=TEXT["layers"],
        num_attention_heads=TEXT["heads"],
        intermediate_size=TEXT["intermediate"],
        max_position_embeddings=TEXT["max_tokens"],
        initializer_range=0.3,
    )
    model = BertModel._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms are 0 and 1 otherwise
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def ours(hugging_face: BertModel) -> Transformer:
    model = TransformerText(**TEXT, dropout=0.1)
    model.mBERT.load_state_dict(hugging_face.state_dict(), strict=True)
    return model.mBERT.eval()


def run(model: BertModel, tokens: Tensor) -> Tensor:
    pooled: Tensor = model(tokens, attention_mask=(tokens > 0).long()).pooler_output
    return pooled


def test_pooled_first_tokens_are_those_of_hugging_face(hugging_face: BertModel, ours: Transformer) -> None:
    tokens = texts(LENGTHS, width=38)
    expected = run(hugging_face, tokens)
    for trimmed, lengths in itertools.product((tokens, tokens[:, :30]), (None, torch.tensor(LENGTHS))):
        torch.testing.assert_close(ours(trimmed, lengths), expected, atol=2e-6, rtol=1e-5)
    alone = torch.cat([ours(row[None, :length]) for row, length in zip(tokens, LENGTHS, strict=True)])
    torch.testing.assert_close(alone, expected, atol=2e-6, rtol=1e-5)


def test_gradients_are_those_of_hugging_face(hugging_face: BertModel, ours: Transformer) -> None:
    tokens = texts(LENGTHS, width=38)
    upstream = torch.randn(len(LENGTHS), TEXT["hidden"])
    (run(hugging_face, tokens) * upstream).sum().backward()
    (ours(tokens) * upstream).sum().backward()
    found = dict(ours.named_parameters())
    assert list(found) == [name for name, _ in hugging_face.named_parameters()]
    for name, parameter in hugging_face.named_parameters():
        expected = parameter.grad
        assert expected is not None, name
        torch.testing.assert_close(
            found[name].grad, expected, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_states_and_attention_are_those_of_hugging_face(hugging_face: BertModel, ours: Transformer) -> None:
    tokens = texts(LENGTHS, width=30)
    theirs = hugging_face(
        tokens, attention_mask=(tokens > 0).long(), output_attentions=True, output_hidden_states=True
    )
    states = ours.states(tokens)
    torch.testing.assert_close(states.embeddings, theirs.hidden_states[0], atol=2e-6, rtol=1e-5)
    for found, expected in zip(states.hidden, theirs.hidden_states[1:], strict=True):
        torch.testing.assert_close(found, expected, atol=5e-6, rtol=1e-5)
    for found, expected in zip(states.attention, theirs.attentions, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.pool(states.hidden[-1][:, 0]), ours(tokens), atol=2e-6, rtol=1e-5)


PLACES = [
    "embeddings.dropout",
    *(
        f"encoder.layer.{layer}.{place}"
        for layer in (0, 1)
        for place in ("attention.self.dropout", "attention.output.dropout", "output.dropout")
    ),
]


@pytest.mark.parametrize("place", PLACES)
def test_dropout_is_where_bert_has_it(hugging_face: BertModel, ours: Transformer, place: str) -> None:
    """At probability 1 a dropout is no chance any more: its place shows in the result."""
    for model in (hugging_face, ours):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(module, text_encoder.Attention):
                module.dropout = 0.0
    tokens = texts(LENGTHS, width=30)
    without = ours(tokens)
    theirs = hugging_face.get_submodule(place)
    assert isinstance(theirs, nn.Dropout)
    theirs.p = 1.0
    if place.endswith("attention.self.dropout"):
        ours.get_submodule(place.removesuffix(".self.dropout")).dropout = 1.0  # type: ignore[assignment]
    else:
        ours.get_submodule(place).p = 1.0  # type: ignore[assignment]
    found = ours(tokens)
    torch.testing.assert_close(found, run(hugging_face, tokens), atol=2e-6, rtol=1e-5)
    assert (found - without).abs().max() > 1e-3


def test_every_dropout_of_bert_is_one_of_the_places_and_has_its_rate(
    hugging_face: BertModel, ours: Transformer
) -> None:
    theirs = [name for name, module in hugging_face.named_modules() if isinstance(module, nn.Dropout)]
    assert sorted(theirs) == sorted(PLACES)
    own = {name: m.p for name, m in ours.named_modules() if isinstance(m, nn.Dropout)}
    own |= {
        f"{name}.self.dropout": module.dropout
        for name, module in ours.named_modules()
        if isinstance(module, text_encoder.Attention)
    }
    assert sorted(own) == sorted(PLACES)
    assert set(own.values()) == {0.1}
    assert not any(module.dropped for module in ours.modules() if isinstance(module, text_encoder.Attention))


def test_dropped_attention_keeps_its_mean() -> None:
    """The last layer's single query: weights are dropped and scaled by 1 / (1 - p)."""
    torch.manual_seed(0)
    lengths = [30] * 400
    packing = packed_attention.pack(torch.ones(400, 30, dtype=torch.int64))
    rows = torch.full((sum(lengths), 2), 3.0)
    directions, shift = torch.zeros(400, 2, 2), torch.zeros(400, 2)
    means, totals = packed_attention.summarise(rows, directions, shift, packing, 0.1)
    torch.testing.assert_close(means, 3.0 * totals[..., None].expand_as(means))
    assert totals.mean().item() == pytest.approx(1.0, abs=0.01)
    kept = totals * 30 * 0.9
    torch.testing.assert_close(kept, kept.round(), atol=1e-3, rtol=0)
    assert len(kept.round().unique()) > 3


def test_the_padded_attention_of_a_gpu_agrees_with_that_of_a_cpu() -> None:
    packing = packed_attention.pack(texts(LENGTHS))
    results = []
    for attend in (packed_attention.attend_each, packed_attention.attend_padded):
        torch.manual_seed(0)
        inputs = [torch.randn(sum(LENGTHS), 16, requires_grad=True) for _ in range(3)]
        mixed = attend(*inputs, 2, packing, 0.0)
        (mixed * torch.arange(mixed.numel()).view_as(mixed).sin()).sum().backward()
        results.append([mixed, *(leaf.grad for leaf in inputs)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_autocast_stays_near(ours: Transformer) -> None:
    tokens = texts(LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(tokens).float()
    cosine = nn.functional.cosine_similarity(found, ours(tokens))
    assert cosine.min() > 0.995


def test_transformer_starts_like_bert() -> None:
    torch.manual_seed(0)
    model = TransformerText(**{**TEXT, "hidden": 64, "vocab_size": 2000}, dropout=0.1).mBERT
    words = model.embeddings.word_embeddings.weight
    assert words[0].abs().max() == 0
    for name, parameter in model.named_parameters():
        if name.endswith("LayerNorm.weight"):
            assert (parameter == 1).all()
        elif name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name


def test_texts_that_cannot_be_encoded(ours: Transformer) -> None:
    with pytest.raises(ValueError, match="text 1 of the batch has no tokens"):
        ours(torch.tensor([[101, 5], [0, 0]]))
    with pytest.raises(InputError, match=r"a text of 41 tokens, but the model takes at most 40 \(model.text"):
        ours(texts([41, 3]))
    with pytest.raises(InputError, match=r"model.text.heads: expected a divisor of hidden = 16, found 3"):
        tiny_model(heads=3)
    with pytest.raises(InputError, match=r"model.text.layers: expected at least 1, found 0"):
        tiny_model(layers=0)


def test_average_of_words() -> None:
    model = tiny_model(kind="average").textMLP
    assert isinstance(model, AverageText)
    tokens = texts(LENGTHS, width=33)
    words = model.word_embeddings.weight
    expected = torch.stack([words[row[:length]].mean(0) for row, length in zip(tokens, LENGTHS, strict=True)])
    found = model(tokens)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(model(tokens, torch.tensor(LENGTHS)), expected)
    upstream = torch.randn_like(found)
    (wanted,) = torch.autograd.grad((expected * upstream).sum(), words)
    (gradient,) = torch.autograd.grad((found * upstream).sum(), words)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("training", [False, True])
def test_backbone_is_torchvisions(name: str, training: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None).train(training)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = ImageBackbone(backbone=name).train(training)
    image_encoder.load_pretrained(ours, tmp_path / "weights.pth")
    theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 48, 48)
    expected = theirs(images)
    torch.testing.assert_close(ours(images), expected, atol=1e-4, rtol=1e-3)
    assert ours.dim == expected.shape[1]
    state = image_encoder.from_torchvision(theirs.state_dict())
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, state[key], atol=1e-4, rtol=1e-3)


def test_backbone_starts_like_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = image_encoder.from_torchvision(torchvision.models.resnet18(weights=None).state_dict())
    for key, value in ImageBackbone(backbone="resnet18").state_dict().items():
        assert value.shape == theirs[key].shape
        if value.ndim == 4:
            assert value.std().item() == pytest.approx(theirs[key].std().item(), rel=0.05), key
        else:
            assert torch.equal(value, theirs[key]), key


def test_maps_lead_to_the_pooled_vector() -> None:
    backbone = ImageBackbone(backbone="resnet18", width=4).eval()
    images = torch.randn(2, 3, 64, 64)
    maps = backbone.maps(images)
    assert [tuple(one.shape) for one in maps] == [(2, 4 << k, 16 >> k, 16 >> k) for k in range(4)]
    torch.testing.assert_close(maps[-1].mean((2, 3)), backbone(images))
    assert backbone.dim == 32


def test_weights_that_are_not_there_or_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"model.image.backbone: expected one of resnet18, .*, found 'vgg16'"
    ):
        ImageBackbone(backbone="vgg16")
    small = ImageBackbone(backbone="resnet18", width=4)
    with pytest.raises(InputError, match=r"model.image.weights: no such file .*none\.pth"):
        image_encoder.load_pretrained(small, tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"list\.pth: expected a state dict of a ResNet, found a list"):
        image_encoder.load_pretrained(small, tmp_path / "list.pth")
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(InputError, match=r"wide\.pth: does not fit ImageBackbone .* of another shape"):
        image_encoder.load_pretrained(small, tmp_path / "wide.pth")
    with pytest.raises(InputError, match="ImageNet weights are for width 64, found width 4"):
        image_encoder.load_pretrained(small)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"no ImageNet weights at .*resnet18-\w+\.pth; put https://"):
        image_encoder.load_pretrained(ImageBackbone(backbone="resnet18"))


def bert_folder(folder: Path, model: BertModel) -> Path:
    model.save_pretrained(folder)
    return folder


def test_pretrained_embeddings_are_taken_and_layers_are_not(hugging_face: BertModel, tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "bert", hugging_face)
    expected = hugging_face.embeddings.state_dict()
    branch = TransformerText(**{**TEXT, "max_tokens": 20}, dropout=0.0)
    before = {name: value.clone() for name, value in branch.mBERT.encoder.state_dict().items()}
    pretrained_text.load_embeddings(branch, folder)
    for name, value in branch.mBERT.embeddings.state_dict().items():
        wanted = expected[name][:20] if name.startswith("position") else expected[name]
        assert torch.equal(value, wanted), name
    assert all(torch.equal(value, before[name]) for name, value in branch.mBERT.encoder.state_dict().items())
    average = tiny_model(kind="average").textMLP
    assert isinstance(average, AverageText)
    pretrained_text.load_embeddings(average, folder)
    assert torch.equal(average.word_embeddings.weight, expected["word_embeddings.weight"])


def test_old_bert_files_and_their_names(hugging_face: BertModel, tmp_path: Path) -> None:
    old = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in hugging_face.state_dict().items()
    }
    torch.save(old, tmp_path / "pytorch_model.bin")
    branch = TransformerText(**TEXT, dropout=0.0)
    pretrained_text.load_embeddings(branch, tmp_path)
    for name, value in branch.mBERT.embeddings.state_dict().items():
        assert torch.equal(value, hugging_face.embeddings.state_dict()[name])


def test_berts_that_are_not_there_or_do_not_fit(hugging_face: BertModel, tmp_path: Path) -> None:
    branch = TransformerText(**{**TEXT, "vocab_size": 200}, dropout=0.0)
    with pytest.raises(
        InputError, match=r"model.text.pretrained: no BERT 'no-such/bert': looked for a folder"
    ):
        pretrained_text.load_embeddings(branch, "no-such/bert")
    folder = bert_folder(tmp_path / "bert", hugging_face)
    with pytest.raises(
        InputError,
        match=r"word_embeddings.weight: expected \[200, 16\], found \[300, 16\]; model.text.vocab_size",
    ):
        pretrained_text.load_embeddings(branch, folder)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(InputError, match=r"model\.safetensors: not a readable safetensors file"):
        pretrained_text.load_embeddings(branch, tmp_path / "broken")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"it has no tensor embeddings.word_embeddings.weight, expected a BERT"
    ):
        pretrained_text.load_embeddings(branch, tmp_path)
