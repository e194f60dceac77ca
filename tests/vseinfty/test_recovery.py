"""Supplementary table 6: the stacked encoders against the plain modules, and the entry end to end."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from projects.vseinfty import recovery
from projects.vseinfty.pooling import GPO

ENTRY = Path(recovery.__file__).with_name("recover_pooling.py")
SIZES = torch.tensor([3, 5, 9, 14])


@pytest.mark.parametrize(
    ("operator", "size", "expected"),
    [
        ("average", 4, [0.25] * 4),
        ("max", 3, [1, 0, 0]),
        ("max10", 12, [0.1] * 10 + [0, 0]),
        ("max10", 4, [0.25] * 4),
        ("top50", 5, [1 / 3] * 3 + [0, 0]),
        ("linear", 3, [3 / 6, 2 / 6, 1 / 6]),
    ],
)
def test_operator_coefficients(operator, size, expected):
    torch.testing.assert_close(
        recovery.operator_coefficients(operator, size), torch.tensor(expected, dtype=torch.float32)
    )


def test_cos_sin_bigru_is_gpo():
    torch.manual_seed(0)
    stacked = recovery.CoefficientEncoder("cos_sin", "bigru", models=3)
    decoder = stacked.decoder
    theta = stacked(SIZES)
    for model in range(3):
        gpo = GPO(positional_dim=32, hidden_dim=32, temperature=0.1)
        with torch.no_grad():
            for suffix, row in (("", model), ("_reverse", 3 + model)):
                getattr(gpo.gru, f"weight_ih_l0{suffix}").copy_(decoder.weight_ih[row].t())
                getattr(gpo.gru, f"weight_hh_l0{suffix}").copy_(decoder.weight_hh[row].t())
                getattr(gpo.gru, f"bias_ih_l0{suffix}").copy_(decoder.bias_ih[row, 0])
                getattr(gpo.gru, f"bias_hh_l0{suffix}").copy_(decoder.bias_hh[row, 0])
            gpo.linear.weight.copy_(decoder.score.weight[model].t())
            expected = gpo.coefficients(SIZES)
        torch.testing.assert_close(theta[model], expected, rtol=1e-4, atol=1e-6)


def test_transformer_equals_plain_masked_attention():
    torch.manual_seed(1)
    decoder = recovery.TransformerDecoder(models=2, dim=8, heads=2)
    positions = torch.randn(14, 8)
    scores = decoder(positions, SIZES)
    for model in range(2):

        def linear(layer, x, m=model):
            out = x @ layer.weight[m]
            return out if layer.bias is None else out + layer.bias[m, 0]

        for row, size in enumerate(SIZES.tolist()):
            x = positions[:size]
            q, k, v = linear(decoder.qkv, nn.functional.layer_norm(x, (8,))).chunk(3, dim=-1)
            heads = [
                ((q[:, h] @ k[:, h].t() / math.sqrt(4)).softmax(-1) @ v[:, h])
                for h in (slice(0, 4), slice(4, 8))
            ]
            x = x + linear(decoder.out, torch.cat(heads, dim=-1))
            x = x + linear(decoder.narrow, linear(decoder.widen, nn.functional.layer_norm(x, (8,))).relu())
            torch.testing.assert_close(
                scores[model, row, :size], linear(decoder.score, x)[:, 0], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("decoder", recovery.DECODERS)
@pytest.mark.parametrize("positions", recovery.POSITION_ENCODINGS)
def test_coefficients_sum_to_one_and_models_are_independent(positions, decoder):
    torch.manual_seed(0)
    encoder = recovery.CoefficientEncoder(positions, decoder, models=4)
    theta = encoder(SIZES)
    assert theta.shape == (4, 4, 14)
    torch.testing.assert_close(theta.sum(-1), torch.ones(4, 4))
    for row, size in enumerate(SIZES):
        assert not theta[:, row, size:].any()
    theta[1].square().sum().backward()
    for parameter in encoder.parameters():
        by_model = parameter.grad.view(-1, 4, parameter[0].numel()).abs().sum((0, 2))
        assert by_model[[0, 2, 3]].tolist() == [0, 0, 0]
    total = sum(p.grad.abs().sum() for p in encoder.parameters())
    assert total > 0


def test_mlp_alone_cannot_know_the_size():
    encoder = recovery.CoefficientEncoder("cos_sin", "mlp", models=1)
    scores = encoder.decoder(recovery.encode_positions("cos_sin", 9), torch.tensor([5, 9]))
    torch.testing.assert_close(scores[0, 0], scores[0, 1])


@pytest.mark.parametrize("decoder", recovery.DECODERS)
def test_gradients_are_clipped_per_model(decoder):
    torch.manual_seed(0)
    encoder = recovery.CoefficientEncoder("cos_sin", decoder, models=3)
    (
        encoder(SIZES) * torch.randn(3, 4, 14) * torch.tensor([100.0, 1e-6, 10.0])[:, None, None]
    ).sum().backward()

    def by_model():
        flat = [p.grad.view(-1, 3, p[0].numel()).transpose(0, 1).flatten(1) for p in encoder.parameters()]
        return torch.cat(flat, dim=1)

    before = by_model().clone()
    recovery.clip_each_model(encoder, 0.01)
    after = by_model()
    for model in range(3):
        plain = nn.Parameter(torch.zeros_like(before[model]))
        plain.grad = before[model].clone()
        nn.utils.clip_grad_norm_([plain], 0.01)
        torch.testing.assert_close(after[model], plain.grad)
    assert before[0].norm() > 0.01 > before[1].norm()


def test_sets_are_sorted_and_padded():
    sets = recovery.draw_sets(torch.Generator().manual_seed(0), SIZES, dim=6)
    assert sets.shape == (4, 6, 14)
    for values, size in zip(sets, SIZES, strict=True):
        assert (values[:, : size - 1] >= values[:, 1:size]).all()
        assert not values[:, size:].any()


def test_training_finds_the_operators_at_seen_and_unseen_sizes():
    sizes = {"train_sizes": [6, 8, 10, 12], "seeds": [0, 1], "batch_size": 4, "dim": 8}
    rates = {"learning_rate": 1e-2, "grad_clip": 1.0}
    start = recovery.train_encoder("cos_sin", "bigru", steps=1, **sizes, **{**rates, "learning_rate": 1e-9})
    trained = recovery.train_encoder("cos_sin", "bigru", steps=120, **sizes, **rates)
    for part in ([6, 8, 10, 12], [7, 9, 11]):
        before, after = recovery.errors(start, part), recovery.errors(trained, part)
        for operator in ("average", "max", "top50", "linear"):
            assert max(after[operator]) < 0.08
            assert max(after[operator]) < 0.7 * max(before[operator])


def run_entry(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    small = ["training.steps=3", "training.batch_size=2", "largest_size=24", "seeds=[5]", "runtime.threads=1"]
    command = [sys.executable, str(ENTRY), f"hydra.run.dir={folder}", *small, *overrides]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_entry_writes_the_table_and_continues_to_the_same_numbers(tmp_path):
    done = run_entry(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "cos_sin_bigru, unseen sizes" in done.stdout
    results = json.loads((tmp_path / "run/results.json").read_text())
    metrics = results["metrics"]
    assert set(metrics) == {f"{p}_{d}" for p in recovery.POSITION_ENCODINGS for d in recovery.DECODERS}
    row = metrics["cos_sin_bigru"]["seen"]
    assert row["worst"] == max(row[operator] for operator in recovery.OPERATORS)
    assert row["mean"] == pytest.approx(sum(row[operator] for operator in recovery.OPERATORS) / 5)

    (tmp_path / "run/results.json").unlink()  # as if killed in the fourth encoder
    kept = json.loads((tmp_path / "run/finished_encoders.json").read_text())
    (tmp_path / "run/finished_encoders.json").write_text(json.dumps(dict(list(kept.items())[:3])))
    assert run_entry(tmp_path / "run").returncode == 0
    assert json.loads((tmp_path / "run/results.json").read_text())["metrics"] == metrics


def test_entry_refuses_sizes_that_leave_nothing_unseen(tmp_path):
    done = run_entry(tmp_path / "run", "smallest_size=24")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "smallest_size, largest_size, seeds" in done.stderr
