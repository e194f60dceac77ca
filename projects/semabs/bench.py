"""Cases of `scripts/bench.py semabs`: our fast paths beside the released way, restated plainly.

Sizes are the released ones; `quick` shrinks them to test the bench itself.
"""

from projects.semabs import bench_data, bench_metrics, bench_networks, bench_relevancy, bench_visualize

CASES = [
    *bench_relevancy.CASES,
    *bench_data.CASES,
    *bench_networks.CASES,
    *bench_metrics.CASES,
    *bench_visualize.CASES,
]
