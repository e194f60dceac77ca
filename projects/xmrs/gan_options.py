"""Our settings under the names of the released flags, as training_options.json holds them."""

from collections.abc import Mapping
from typing import Any


def released_options(settings: Mapping[str, Any], *, num_classes: int, embed_dim: int) -> dict[str, Any]:
    """The released flags of a run of gan_train.py.

    Args:
        settings: its plain settings.
        num_classes, embed_dim: as found in the data and the retrieval model.
    """
    data, hyper, loss = settings["data"], settings["optim"], settings["loss"]
    made = settings["generator"]
    return {
        "seed": settings["seed"],
        "resume_G": settings["init_generator"] or "",
        "resume_D": settings["init_discriminator"] or "",
        "language": data["language"],
        "img_path": data["image_root"],
        "data_path": data["data_root"],
        "encoder_dir": settings["encoder"],
        "workers": settings["workers"],
        "maxImgs": data["max_images"],
        "batch_size": hyper["batch_size"],
        "embDim": embed_dim,
        "numClasses": num_classes,
        "Z_DIM": made["noise_dim"],
        "DF_DIM": settings["discriminator"]["width"],
        "GF_DIM": made["width"],
        "EMBEDDING_DIM": made["condition_dim"],
        "R_NUM": made["residual_blocks"],
        "W_IMG_IMG_COS_LOSS": loss["image_cycle"],
        "W_IMG_REC_COS_LOSS": loss["recipe_cycle"],
        "lr": hyper["learning_rate"],
        "weight_decay": hyper["weight_decay"],
        "epochs": hyper["epochs"],
        "drop_G_lr_epoch": hyper["drop_generator_epoch"],
        "drop_D_lr_epoch": hyper["drop_discriminator_epoch"],
        "auto_drop_lr": hyper["auto_drop"],
        "auto_drop_times": hyper["auto_drop_times"],
        "auto_drop_after_epochs": hyper["auto_drop_after_epochs"],
    }
