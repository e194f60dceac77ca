import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared import runtime
from shared.errors import InputError
from shared.runtime import Runtime
from tests.shared import two_ranks
from tests.shared.entries import make_entry
from tests.shared.group import processes, torchrun


@pytest.mark.parametrize("key", ["gradients", "gradients in small buckets"])
def test_two_ranks_give_the_gradients_of_one(two_rank_results: list[dict[str, Any]], key: str) -> None:
    expected = two_ranks.gradients(0, two_ranks.SHARES[-1][1], bucket_bytes=2**20)
    assert expected["loss"] > 1
    assert expected["late"].abs().max() > 1e-3
    assert expected["linear.weight"].abs().max() > 1e-3
    for found in two_rank_results:
        for name, value in expected.items():
            if value is None:
                assert found[key][name] is None, name  # no gradient anywhere: the optimizer must skip it
            else:
                torch.testing.assert_close(found[key][name], value, rtol=1e-12, atol=1e-12, msg=name)


def test_gathered_rows_of_unequal_shards(two_rank_results: list[dict[str, Any]]) -> None:
    for found in two_rank_results:
        for (dtype, counts), rows in zip(two_ranks.GATHERED, found["rows"], strict=True):
            expected = torch.cat([two_ranks.rows_of(rank, dtype, counts) for rank in (0, 1)])
            assert rows.dtype == dtype
            assert torch.equal(rows, expected), (dtype, counts)
        in_order = torch.cat([two_ranks.rows_of(rank, torch.float32, (1, 4)) for rank in (0, 1)])
        assert torch.equal(found["rows with gradient"], in_order)


def test_ranks_and_objects(two_rank_results: list[dict[str, Any]]) -> None:
    assert [found["ranks"] for found in two_rank_results] == [(0, 2), (1, 2)]
    assert all(found["objects"] == [{"rank": 0}, {"rank": 1}] for found in two_rank_results)


def test_buffers_are_those_of_rank_0(two_rank_results: list[dict[str, Any]]) -> None:
    assert [found["buffers"].tolist() for found in two_rank_results] == [[5, 5], [5, 5]]
    assert two_ranks.broadcast_buffers(1).tolist() == [6, 6], "in a single process they stay"


def test_a_single_process_is_a_group_of_one() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert runtime.all_gather_with_grad(x) is x
    assert runtime.all_reduce_sum_with_grad(x) is x
    assert torch.equal(runtime.all_gather_rows(x), x)
    assert not runtime.all_gather_rows(x).requires_grad
    assert runtime.gather_objects("a") == ["a"]
    runtime.barrier()
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 3.0)
    runtime.all_reduce_gradients([parameter])
    assert parameter.grad.tolist() == [3.0, 3.0]


FAILING_RANKS = """
    import sys
    from shared import config, runtime
    from shared.errors import InputError
    from omegaconf import DictConfig

    @config.entry(__file__)
    def main(cfg: DictConfig) -> None:
        with runtime.start(device="cpu", threads=1) as rt:
            if cfg.fails == "rank 0" and rt.rank == 0:
                open("/dev/full", "wb", buffering=0).write(b"x")
            if cfg.fails == "rank 1" and rt.rank == 1 or cfg.fails == "all":
                raise InputError(f"data/x.npy: expected 3 rows")
            runtime.barrier()
            runtime.gather_objects("never complete")

    main()
"""


@pytest.fixture
def failing_entry(tmp_path: Path) -> Path:
    return make_entry(tmp_path, FAILING_RANKS, "fails: null")


@pytest.mark.parametrize(
    ("fails", "line"),
    [
        ("rank 0", "error: No space left on device"),
        ("rank 1", "error: data/x.npy: expected 3 rows"),
        ("all", "error: data/x.npy: expected 3 rows"),
    ],
)
def test_a_failing_rank_speaks_once_and_nobody_hangs(failing_entry: Path, fails: str, line: str) -> None:
    ranks = processes(failing_entry, f"fails={fails}")
    assert [rank.returncode for rank in ranks] == [2, 2], [rank.stderr for rank in ranks]
    printed = "".join(rank.stderr for rank in ranks)  # torch itself may warn of a lost connection
    assert [text for text in printed.splitlines() if text.startswith("error: ")] == [line], printed
    assert "Traceback" not in printed


def test_under_torchrun_the_rank_that_fails_speaks(failing_entry: Path) -> None:
    done = torchrun(failing_entry, "fails=rank 1")
    assert done.returncode == 1  # torchrun's own
    lines = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert lines == ["error: data/x.npy: expected 3 rows"], done.stderr
    assert "exitcode  : 2 " in done.stderr
    assert "Connection closed" not in done.stderr  # rank 0 was waiting, and leaves without a traceback


def test_seeds_give_the_same_draws_again() -> None:
    def drawn(seed: int) -> list[float]:
        with runtime.start(device="cpu", seed=seed):
            return two_ranks.draws()

    assert drawn(3) == drawn(3)
    assert all(a != b for a, b in zip(drawn(3), drawn(4), strict=True))


def test_rng_state_goes_through_a_safe_file(tmp_path: Path) -> None:
    runtime.seed_everything(1)
    np.random.standard_normal()  # half a pair: the other half is part of the state
    random.gauss(0, 1)
    torch.save(runtime.rng_state(), tmp_path / "rng.pt")
    expected = [*two_ranks.draws(), random.gauss(0, 1)]
    runtime.seed_everything(2)
    runtime.set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert [*two_ranks.draws(), random.gauss(0, 1)] == expected


def test_settings_of_torch_are_put_back() -> None:
    before = torch.get_num_threads()
    with runtime.start(device="cpu", threads=before + 1, deterministic=True) as rt:
        assert torch.get_num_threads() == before + 1
        assert torch.are_deterministic_algorithms_enabled()
        assert (rt.rank, rt.world_size, rt.is_main) == (0, 1, True)
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_on_cpu(precision: str, dtype: torch.dtype) -> None:
    with runtime.start(device="cpu", precision=precision) as rt:
        layer = torch.nn.Linear(4, 4)
        with rt.autocast():
            out = layer(torch.randn(2, 4))
        scaler = rt.grad_scaler()
        scaler.scale(out.float().sum()).backward()
        assert out.dtype == dtype
        assert layer.weight.dtype == torch.float32
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().sum() > 0
        assert scaler.is_enabled() == (precision == "fp16")


def test_a_precision_that_autocast_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    # what torch does where a device lacks the type: a warning, and autocast switched off
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    with pytest.raises(InputError, match=r"runtime\.precision: fp16 is not supported on cpu"):
        runtime.start(device="cpu", precision="fp16").__enter__()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "gpu"}, "runtime.device: expected auto, cpu, cuda or cuda:<n>, found 'gpu'"),
        ({"device": "meta"}, "runtime.device: expected auto, cpu"),
        ({"device": "cuda:99"}, "runtime.device: cuda:99 asked for, but this machine has"),
        ({"precision": "fp8"}, "runtime.precision: expected fp32, bf16, fp16, found 'fp8'"),
        ({"threads": 0}, "runtime.threads: expected at least 1, found 0"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with (
        pytest.raises(InputError, match=message.replace("(", r"\(")),
        runtime.start(**{"device": "cpu"} | settings),
    ):
        pass


def test_threads_are_shared_out_among_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available_cores", lambda: 8)
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert runtime.default_threads() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert runtime.default_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert runtime.default_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert runtime.default_threads() == 1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # then the 1 is torchrun's, not the user's
    assert runtime.default_threads() == 2


def test_cores_are_at_least_one_and_no_more_than_the_machine_has() -> None:
    import os

    assert 1 <= runtime.available_cores() <= (os.cpu_count() or 1)


@pytest.mark.gpu
def test_gpu_precision_tf32_and_generator() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    with runtime.start(device="auto", precision="bf16", tf32=True, deterministic=True) as rt:
        assert rt.device == torch.device("cuda", 0)
        assert torch.backends.cuda.matmul.allow_tf32
        with rt.autocast():
            assert (
                torch.ones(2, 2, device=rt.device) @ torch.ones(2, 2, device=rt.device)
            ).dtype == torch.bfloat16
        state = runtime.rng_state()
        expected = torch.rand(3, device=rt.device)
        runtime.set_rng_state(state)
        assert torch.equal(torch.rand(3, device=rt.device), expected)
    assert not torch.backends.cuda.matmul.allow_tf32


def test_runtime_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Runtime(torch.device("cpu")).rank = 1  # type: ignore[misc]
