"""The Frechet distance and the Inception score against their formulas, and networks that come from files."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from projects.xmrs import fid
from projects.xmrs.fid import Statistics
from shared.errors import InputError


def statistics(*batches: np.ndarray) -> Statistics:
    found = Statistics()
    for batch in batches:
        found.add(batch)
    return found


def test_statistics_of_batches_are_those_of_the_whole() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 6)) * [1, 2, 3, 4, 5, 6] + 1000
    found = statistics(rows[:1], rows[1:20], rows[20:20], rows[20:])
    np.testing.assert_allclose(found.mean, rows.mean(0))
    np.testing.assert_allclose(found.covariance, np.cov(rows.T), rtol=1e-9)
    assert found.count == 50


@pytest.mark.parametrize("count", [200, 5], ids=["more images than features", "fewer"])
def test_distance_equals_the_formula(count: int) -> None:
    rng = np.random.default_rng(0)
    first, second = (
        rng.standard_normal((count, 8)),
        rng.standard_normal((count + 3, 8)) @ np.diag(range(1, 9)) + 1,
    )
    a, b = np.cov(first.T), np.cov(second.T)
    root = scipy.linalg.sqrtm(a.astype(complex) @ b).real
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    assert fid.frechet_distance(statistics(first), statistics(second)) == pytest.approx(expected, rel=1e-5)


def test_distance_of_a_set_to_itself_and_of_shifted_gaussians() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 5))
    assert fid.frechet_distance(statistics(rows), statistics(rows)) == pytest.approx(0, abs=1e-9)
    assert fid.frechet_distance(
        statistics(rows), statistics(rows + np.array([3, 4, 0, 0, 0]))
    ) == pytest.approx(25)
    scaled = fid.frechet_distance(statistics(rows), statistics(3 * (rows - rows.mean(0)) + rows.mean(0)))
    assert scaled == pytest.approx(4 * np.trace(np.cov(rows.T)))  # (3 s - s)^2 along every axis


def test_inception_score() -> None:
    certain = np.eye(10)[np.arange(1000) % 10]
    assert fid.inception_score(certain) == (pytest.approx(10), pytest.approx(0))
    assert fid.inception_score(np.full((100, 10), 0.1)) == (pytest.approx(1), pytest.approx(0))
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 40)
    parts = probabilities.reshape(10, 4, 4)
    scores = [np.exp(np.mean([(p * np.log(p / part.mean(0))).sum() for p in part])) for part in parts]
    assert fid.inception_score(probabilities) == (
        pytest.approx(np.mean(scores)),
        pytest.approx(np.std(scores)),
    )


def test_what_has_no_distance() -> None:
    rows = np.ones((4, 3))
    with pytest.raises(InputError, match="at least two images, found 1"):
        fid.frechet_distance(statistics(rows[:1]), statistics(rows))
    with pytest.raises(InputError, match="of the same network"):
        fid.frechet_distance(statistics(rows), statistics(np.ones((4, 2))))
    with pytest.raises(InputError, match="NaN or infinity"):
        statistics(np.array([[1, np.nan]]))
    with pytest.raises(InputError, match="needs as many images, found 4"):
        fid.inception_score(rows)


class Colours(nn.Module):
    """A feature network as a program: mean and deviation of each colour."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        x = images.float()
        features = torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)
        return features if return_features else features[:, :2]


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_program_from_a_file_only_when_it_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "features.pt"
    torch.jit.script(Colours()).save(str(path))
    with pytest.raises(InputError, match=r"TorchScript program, which would be run; fid.trust_program=true"):
        fid.load_network(path)
    network = fid.load_network(path, trust_program=True)
    images = torch.randint(0, 256, (7, 3, 5, 5), dtype=torch.uint8)
    found = fid.score(network, [images[:4], images[4:]])
    assert found.statistics.count == 7
    np.testing.assert_allclose(found.statistics.mean[:3], images.float().mean((0, 2, 3)), rtol=1e-5)
    assert found.probabilities == []


def test_inception_from_a_state_dict(tmp_path: Path) -> None:
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    network = inception_v3(weights=None, aux_logits=True, init_weights=False)
    path = tmp_path / "inception_v3.pth"
    torch.save(network.state_dict(), path)
    extract = fid.load_network(path)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    found = fid.score(extract, [images])
    assert found.statistics.mean.shape == (2048,)
    assert found.probabilities[0].shape == (2, 1000)
    np.testing.assert_allclose(found.probabilities[0].sum(1), 1, rtol=1e-5)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.pth"
    with pytest.raises(InputError, match=r"fid.network: no such file"):
        fid.load_network(path)
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(InputError, match="does not fit Inception3"):
        fid.load_network(path)
    torch.save([1], path)
    with pytest.raises(InputError, match="expected a state dict, found list"):
        fid.load_network(path)
