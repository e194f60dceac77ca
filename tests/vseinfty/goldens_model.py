"""Golden calls of the model and its training, by the name that cases.yaml uses."""

from collections.abc import Callable

from tests.goldens.case import Case
from tests.vseinfty import goldens_encoders, goldens_training

CALLS: dict[str, Callable[[Case], None]] = {
    "gpo": goldens_encoders.gpo,
    "pooling": goldens_encoders.pooling,
    "region": goldens_encoders.region,
    "bert_text": goldens_encoders.bert_text,
    "bigru_text": goldens_encoders.bigru_text,
    "cnn_grid": goldens_encoders.cnn_grid,
    "loss": goldens_encoders.loss,
    "schedule": goldens_training.schedule,
    "train": goldens_training.train,
    "released_keys": goldens_training.released_keys,
    "released_checkpoint": goldens_training.released_checkpoint,
}
