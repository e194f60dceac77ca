"""Numbers in which losses are computed."""

from torch import Tensor, float64


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision tensors become float32; float32 and float64 stay."""
    return x if x.dtype == float64 else x.float()
