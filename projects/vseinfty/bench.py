"""Cases of `scripts/bench.py vseinfty`: our fast paths beside the released way (bench_released.py).

Sizes are the paper's (E = 1024, 36 regions of 2048, batch 128); `quick` shrinks them to test the bench.
"""

from projects.vseinfty import bench_evaluation as evaluation
from projects.vseinfty import bench_training as training
from shared.bench import Case, Target

GIB = 1 << 30

CASES = [
    Case(
        "ranking",
        "ranks of 5,000 images x 25,000 captions in both directions, product included",
        evaluation.ranking,
        evaluation.check_ranking,
        (Target("ours", "released: float64, sorts", 5.0), Target("ours", "float32 product alone", 1 / 1.3)),
        memory=True,
    ),
    Case(
        "memory",
        "COCO's 5 x 1K and 5K metrics from embeddings: resident memory of the whole process",
        evaluation.protocol,
        evaluation.check_protocol,
        memory_limit={"ours": GIB},
    ),
    Case(
        "cxc_intra",
        "CxC text -> text ranks among COCO's 25,000 test captions (5 GB on the released side)",
        evaluation.intra,
        evaluation.check_intra,
        (Target("ours", "released", 10.0),),
    ),
    Case(
        "gpo",
        "GPO forward + backward, 128 x 36 x 1024",
        training.gpo,
        training.check_gpo,
        (Target("ours", "released", 2.5),),
    ),
    Case("loss", "triplet loss forward + backward, 128 x 1024", training.loss, training.check_gpo),
    Case(
        "train_step",
        "training step of region + BiGRU, batch 128",
        training.training,
        training.check_training,
        (Target("ours fp32", "released", 1.3), Target("ours bf16", "ours fp32", 1.0)),
    ),
    Case(
        "fetch",
        "fetch and collate a training batch of 128",
        training.fetching,
        training.check_fetching,
        (Target("ours", "released", 1.0),),
    ),
    Case(
        "tokens",
        "token ids of 128 captions",
        training.tokenising,
        training.check_equal,
        (Target("ours: cut from a table", "released: tokenise at each fetch", 1.0),),
    ),
    Case(
        "encode",
        "image embeddings of 200 images with 5 captions each",
        evaluation.encoding,
        evaluation.check_encoding,
        (Target("ours: once per image", "released: once per caption", 5.0),),
    ),
]
