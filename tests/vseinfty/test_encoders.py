"""Encoders: fast paths against plain ones, padding, order of the batch, what trains and what does not."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from projects.vseinfty.augmentation import drop_grids
from projects.vseinfty.image_encoders import GridEncoder, GridHead, RegionEncoder
from projects.vseinfty.model import build_model
from projects.vseinfty.pooling import build_pooling, inside
from projects.vseinfty.recurrent import bidirectional_states
from projects.vseinfty.text_encoders import BertEncoder, BiGRUEncoder, build_bert
from shared.errors import InputError

SMALL_BERT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "vocab_size": 60,
    "max_position_embeddings": 40,
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def random_captions(batch: int, longest: int, vocab: int = 50) -> tuple[Tensor, Tensor]:
    lengths = torch.randint(2, longest + 1, (batch,))
    lengths[1] = longest
    ids = torch.randint(1, vocab, (batch, longest))
    return ids * inside(lengths, longest), lengths


def bigru(pooling: str = "gpo", layers: int = 1) -> BiGRUEncoder:
    return BiGRUEncoder(
        vocab_size=50, word_dim=6, embed_size=8, num_layers=layers, pooling=build_pooling(pooling, dim=8)
    )


def with_gradients(
    module: nn.Module, call: Callable[[], Tensor], order: Sequence[int] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    module.zero_grad()
    value = call()
    upstream = torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).to(value.dtype)
    (value * (upstream if order is None else upstream[list(order)])).sum().backward()
    return value.detach(), {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def assert_same(
    ours: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]], **how: Any
) -> None:
    torch.testing.assert_close(ours[0], other[0], **how)
    assert ours[1].keys() == other[1].keys()
    for name, gradient in ours[1].items():
        torch.testing.assert_close(gradient, other[1][name], **how, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("layers", [1, 2])
def test_states_are_those_of_torch_gru(layers: int) -> None:
    gru = nn.GRU(5, 7, layers, batch_first=True, bidirectional=True).double()
    table = torch.randn(50, 5, dtype=torch.float64, requires_grad=True)
    ids, lengths = random_captions(9, 11)
    lengths[4] = 1

    def torchs() -> Tensor:
        packed = pack_padded_sequence(table[ids], lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(gru(packed)[0], batch_first=True)[0].unflatten(-1, (2, -1))

    results = []
    for call in (lambda: bidirectional_states(gru, table.__getitem__, ids, lengths), torchs):
        table.grad = None
        value, gradients = with_gradients(gru, call)
        assert table.grad is not None
        results.append((value, {**gradients, "table": table.grad}))
    assert_same(*results, rtol=1e-10, atol=1e-12)


def test_gradcheck_of_the_recurrence() -> None:
    gru = nn.GRU(3, 2, batch_first=True, bidirectional=True).double()
    table = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    ids, lengths = torch.arange(12).view(3, 4), torch.tensor([2, 4, 1])
    names, parameters = zip(*gru.named_parameters(), strict=True)

    class States(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = gru

        def forward(self, x: Tensor) -> Tensor:
            return bidirectional_states(self.gru, x.__getitem__, ids, lengths)

    module = States()

    def states(x: Tensor, *values: Tensor) -> Tensor:
        named = {f"gru.{name}": value for name, value in zip(names, values, strict=True)}
        found: Tensor = torch.func.functional_call(module, named, (x,))
        return found

    assert torch.autograd.gradcheck(states, (table, *parameters))


def test_states_under_autocast() -> None:
    encoder = bigru()
    ids, lengths = random_captions(6, 9)
    expected = with_gradients(encoder, lambda: encoder(ids, lengths)[0])
    with torch.autocast("cpu", torch.bfloat16):
        found = with_gradients(encoder, lambda: encoder(ids, lengths)[0])
    assert found[0].dtype == torch.float32
    scale = max(gradient.abs().max().item() for gradient in expected[1].values())
    assert_same(found, expected, rtol=0.1, atol=0.05 * scale)


@pytest.mark.parametrize("pooling", ["gpo", "avg", "last", "max"])
def test_captions_in_any_order_and_with_any_padding(pooling: str) -> None:
    encoder = bigru(pooling, layers=2)
    ids, lengths = random_captions(7, 10)
    plain = with_gradients(encoder, lambda: encoder(ids, lengths)[0])
    order = torch.randperm(7).tolist()
    back = [order.index(i) for i in range(7)]
    shuffled = with_gradients(encoder, lambda: encoder(ids[order], lengths[order])[0], order)
    assert_same((shuffled[0][back], shuffled[1]), plain, rtol=1e-4, atol=1e-6)
    wider = torch.cat([ids, torch.zeros(7, 3, dtype=torch.int64)], dim=1)
    assert_same(with_gradients(encoder, lambda: encoder(wider, lengths)[0]), plain, rtol=1e-4, atol=1e-6)


def test_last_state_is_the_final_state_of_both_directions() -> None:
    encoder = bigru("last")
    encoder.normalize = False
    ids, lengths = random_captions(5, 8)
    packed = pack_padded_sequence(encoder.embed(ids), lengths, batch_first=True, enforce_sorted=False)
    final = encoder.rnn(packed)[1]
    torch.testing.assert_close(encoder(ids, lengths)[0], final.mean(0))


def plain_regions(encoder: RegionEncoder, regions: Tensor, lengths: Tensor) -> Tensor:
    """Every row of the batch, padding too, through both branches."""
    rows = regions.flatten(0, 1)
    hidden = torch.relu(encoder.mlp.bns[0](encoder.mlp.layers[0](rows)))
    features = (encoder.fc(rows) + encoder.mlp.layers[1](hidden)).unflatten(0, regions.shape[:2])
    pooled = encoder.gpool(features, lengths)[0]
    return pooled / (pooled.norm(dim=1, keepdim=True) + 1e-8)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("full", [True, False])
def test_regions_without_their_padding(training: bool, full: bool) -> None:
    """Spec quirk 2: padding rows are not computed, yet count in the batch norm's statistics."""
    encoder = RegionEncoder(image_dim=9, hidden=6, embed_size=8, pooling=build_pooling("gpo", dim=8)).double()
    encoder.mlp.layers[0].bias.data += 3.0
    encoder.train(training)
    lengths = torch.full((5,), 7) if full else torch.tensor([7, 1, 4, 6, 2])
    regions = torch.randn(5, 7, 9, dtype=torch.float64) * inside(lengths, 7)[:, :, None]
    start = {name: value.clone() for name, value in encoder.state_dict().items()}
    ours = with_gradients(encoder, lambda: encoder(regions, lengths)[0])
    statistics = {name: value.clone() for name, value in encoder.named_buffers()}
    encoder.load_state_dict(start)
    assert_same(
        ours, with_gradients(encoder, lambda: plain_regions(encoder, regions, lengths)), atol=1e-10, rtol=0
    )
    for name, value in encoder.named_buffers():
        torch.testing.assert_close(statistics[name], value)
    moved = not torch.equal(statistics["mlp.bns.0.running_mean"], start["mlp.bns.0.running_mean"])
    assert moved == training
    assert "mlp.bns.1.weight" not in ours[1]


def test_regions_without_lengths_are_all_regions() -> None:
    model = build_model(embed_size=8, image_dim=5, vocab_size=9, word_dim=4).eval()
    regions = torch.randn(3, 6, 5)
    torch.testing.assert_close(
        model.encode_images(regions), model.encode_images(regions, torch.full((3,), 6))
    )
    embeddings, weights = model.encode_images(regions, return_weights=True)
    assert weights is not None
    assert weights.shape == (3, 6)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


class Grid(nn.Module):
    """Stands for the CNN: pixels are the grids."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels


def test_grids_are_dropped_inside_the_model() -> None:
    head = GridHead(image_dim=5, embed_size=8, pooling=build_pooling("gpo", dim=8))
    encoder = GridEncoder(backbone=Grid(), head=head)  # type: ignore[arg-type]
    grids, draws = torch.randn(6, 12, 5), (torch.rand(6, 12), torch.rand(6))
    found, weights = encoder(grids, None, draws)
    kept, lengths = drop_grids(grids, *draws)
    torch.testing.assert_close(found, head(kept, lengths)[0])
    assert weights.shape == (6, int(lengths.max()))
    assert int(lengths.min()) < 12
    assert not torch.allclose(found, encoder(grids)[0])


def small_bert(pooling: str = "gpo") -> BertEncoder:
    bert = build_bert("nowhere", pretrained=False, config=SMALL_BERT)
    return BertEncoder(bert=bert, embed_size=8, pooling=build_pooling(pooling, dim=8)).eval()


def test_bert_ignores_padding_and_counts_a_drawn_zero() -> None:
    encoder = small_bert()
    ids, lengths = random_captions(6, 12)
    plain = with_gradients(encoder, lambda: encoder(ids, lengths)[0])
    wider = torch.cat([ids, torch.zeros(6, 5, dtype=torch.int64)], dim=1)
    assert_same(with_gradients(encoder, lambda: encoder(wider, lengths)[0]), plain, rtol=1e-3, atol=1e-6)
    # quirk 10: a random replacement may be id 0: no attention to it, but it is a token of the set
    ids, lengths = torch.tensor([[1, 5, 0, 7, 2]]), torch.tensor([5])
    mask = torch.tensor([[1, 1, 0, 1, 1]])
    hidden = encoder.bert(ids, attention_mask=mask).last_hidden_state
    expected = encoder.gpool(encoder.linear(hidden), lengths)[0]
    found, weights = encoder(ids, lengths)
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))
    assert weights.shape == (1, 5)


def test_cls_takes_the_first_token_alone() -> None:
    encoder = small_bert("cls")
    ids, lengths = random_captions(4, 6)
    expected = encoder.linear(encoder.bert(ids, attention_mask=(ids != 0).long()).last_hidden_state[:, 0])
    found, weights = encoder(ids, lengths)
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))
    assert weights is None


def test_pretrained_bert_from_a_folder_and_none_from_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    bert = small_bert().bert
    bert.save_pretrained(tmp_path / "bert")
    model = build_model(embed_size=8, image_dim=5, text_encoder="bert", bert=str(tmp_path / "bert"))
    assert isinstance(model.txt_enc, BertEncoder)
    for name, value in bert.state_dict().items():
        assert torch.equal(model.txt_enc.bert.state_dict()[name], value)
    blank = build_bert(str(tmp_path / "bert"), pretrained=False)
    assert blank.config.hidden_size == 24
    with pytest.raises(InputError, match=r"no-such-bert.*folder of that name.*Hugging Face cache"):
        build_model(embed_size=8, image_dim=5, text_encoder="bert", bert="no-such-bert")
    (tmp_path / "bert" / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(InputError, match=r"model\.bert: .*no usable BERT in this folder"):
        build_bert(str(tmp_path / "bert"), pretrained=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_encoder": "regoins"}, "image_encoder: expected regions or grid, found 'regoins'"),
        ({"text_encoder": "lstm"}, "text_encoder: expected bert or bigru, found 'lstm'"),
        ({"vocab_size": None}, "vocab_size"),
        ({"image_pooling": "cls"}, "image_pooling: cls and last are for captions"),
        ({"text_encoder": "bert", "text_pooling": "last"}, "needs a recurrent encoder"),
        ({"image_encoder": "grid", "backbone": "vgg"}, r"expected one of detector.*found 'vgg'"),
        ({"image_encoder": "grid", "backbone_weights": "none.pth"}, "no such file none.pth"),
        ({"text_encoder": "bert", "vocab_size": 61}, "embeddings for 60 tokens, found a vocabulary of 61"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    right = {
        "embed_size": 8,
        "image_dim": 5,
        "vocab_size": 9,
        "bert_pretrained": False,
        "bert_config": SMALL_BERT,
    }
    with pytest.raises(InputError, match=message):
        build_model(**{**right, **settings})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_agrees_with_cpu() -> None:
    model = build_model(embed_size=32, image_dim=24, vocab_size=50, word_dim=16, rnn_layers=2)
    ids, lengths = random_captions(20, 12)
    image_lengths = torch.randint(1, 10, (20,))
    regions = torch.randn(20, 9, 24) * inside(image_lengths, 9)[:, :, None]
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def scores(device: str) -> Tensor:
        model.load_state_dict(start)
        model.to(device)
        images = model.encode_images(regions.to(device), image_lengths.to(device))
        return (images @ model.encode_captions(ids.to(device), lengths.to(device)).t()).cpu()

    on_cpu = with_gradients(model, lambda: scores("cpu"))
    on_gpu = with_gradients(model, lambda: scores("cuda"))
    on_gpu = (on_gpu[0], {name: gradient.cpu() for name, gradient in on_gpu[1].items()})
    assert_same(on_gpu, on_cpu, rtol=1e-2, atol=1e-4)
