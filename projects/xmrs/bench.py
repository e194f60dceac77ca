"""Cases of `scripts/bench.py xmrs`: our fast paths beside the released way, restated plainly.

Sizes are the paper's (ResNet-50, 768 x 2 layers, batch 20, 51,303 test pairs); `quick` shrinks them to test
the bench itself.
"""

from projects.xmrs import bench_gan, bench_lmdb, bench_model, bench_ranking, bench_training

CASES = [
    *bench_model.CASES,
    *bench_training.CASES,
    *bench_ranking.CASES,
    *bench_lmdb.CASES,
    *bench_gan.CASES,
]
