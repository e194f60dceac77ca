"""Cases of `scripts/bench.py babel`: our fast paths beside the released way, restated plainly.

Sizes are the released ones (ResNet-50, 224 pixels, batches of 18 pairs); `quick` shrinks them to test the bench
itself.
"""

from projects.babel import (
    bench_correspondence,
    bench_evaluation,
    bench_losses,
    bench_network,
    bench_pamr,
    bench_training,
)

CASES = [
    *bench_correspondence.CASES,
    *bench_losses.CASES,
    *bench_pamr.CASES,
    *bench_network.CASES,
    *bench_training.CASES,
    *bench_evaluation.CASES,
]
