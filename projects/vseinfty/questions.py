"""What infer.py is asked: its settings turned into a collection, queries and an index folder."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from projects.vseinfty import sources
from projects.vseinfty.data import DataSet
from projects.vseinfty.image_encoders import GridEncoder, RegionEncoder
from projects.vseinfty.sources import Source
from projects.vseinfty.trained import Trained
from shared.errors import InputError
from shared.index import model_identity
from shared.runtime import Runtime

_EXAMPLES = 4


@dataclass(frozen=True)
class Collection:
    """What is searched, and which captions are known to belong to which images."""

    source: Source | None
    captions: list[str]
    key: tuple[str, ...]  # tells collections apart; names the folder of the images' index
    captions_key: tuple[str, ...]  # the same for the captions
    captions_per_image: int | None = None  # for a split: caption i belongs to image i // this

    def images(self) -> Source:
        """The source, where images are searched."""
        assert self.source is not None, "only captions are searched"
        return self.source


@dataclass(frozen=True)
class Questions:
    """Texts that want images, and images that want captions."""

    texts: list[str] = field(default_factory=list)
    right_images: list[set[int]] | None = None  # per text, where known
    source: Source | None = None  # what the query images are from
    positions: list[int] = field(default_factory=list)
    right_captions: list[set[int]] | None = None  # per query image, where known


def takes_pictures(trained: Trained) -> bool:
    """Whether a model has a CNN of its own; the others take region features."""
    return isinstance(trained.model.img_enc, GridEncoder)


def backbone(trained: Trained) -> str:
    """The CNN's name, which says how pictures are normalised."""
    found = trained.model.img_enc
    return str(found.backbone.source) if isinstance(found, GridEncoder) else "detector"


def identity(trained: Trained, runtime: Runtime) -> str:
    """What an index depends on besides its items: weights, preprocessing, precision."""
    settings = {"image_side": trained.data_settings.get("image_side"), "backbone": backbone(trained)}
    return model_identity(trained.model, precision=runtime.precision, **settings)


def index_folder(settings: Mapping[str, Any], model: str, key: Sequence[str]) -> Path:
    """A folder for each model and collection in the cache, unless the user names one."""
    if key[0] != "captions" and settings["index"]:
        return Path(settings["index"]).expanduser()
    place = hashlib.sha256("\0".join(key).encode("utf-8", "surrogateescape")).hexdigest()
    return Path(settings["cache"]) / f"{key[0]}-{model[:10]}-{place[:10]}"


def open_collection(settings: Mapping[str, Any], trained: Trained) -> Collection:
    """Open what is searched. InputError when it is not there, empty, or for another kind of model."""
    images, features, captions = (_path(settings[key]) for key in ("images", "features", "captions"))
    pictures = takes_pictures(trained)
    if images and not pictures:
        raise InputError(
            f"images={images}: {trained.name} takes region features, not pictures: "
            "give features=FILE.npy names=FILE.txt"
        )
    if features and pictures:
        raise InputError(
            f"features={features}: {trained.name} takes pictures, not features: give images=FOLDER"
        )
    texts = sources.read_texts(captions, "captions") if captions else []
    captions_key = ("captions", str(captions.resolve()) if captions else "")
    if images:
        source: Source = sources.open_pictures(images, **_preprocessing(trained))
        return Collection(source, texts, ("images", str(images.resolve())), captions_key)
    if features:
        source = sources.open_features(
            features,
            _path(settings["names"]),
            image_dim=_image_dim(trained),
            pictures=_path(settings["pictures"]),
        )
        return Collection(source, texts, ("features", str(features.resolve())), captions_key)
    if captions and pictures and settings["query_image"] is not None and not _asks_texts(settings):
        return Collection(
            None, texts, ("images", ""), captions_key
        )  # captions for pictures: nothing else is searched
    return _open_split(settings["split"], texts, captions_key, trained)


def _open_split(name: str, texts: list[str], captions_key: tuple[str, ...], trained: Trained) -> Collection:
    own = {key: value for key, value in trained.data_settings.items() if key in DataSet.__dataclass_fields__}
    if not {"name", "root"} <= own.keys():
        raise InputError(
            "images: nothing to search; give images=FOLDER (or features=FILE.npy for models on regions)"
        )
    dataset = DataSet(**own)
    dataset.prepare()
    split = dataset.open(name, tokenizer=trained.tokenizer, backbone=backbone(trained))
    key = ("split", str(Path(dataset.root).resolve()), name)
    per_image = split.num_captions // split.num_images
    images = sources.SplitImages(split, name)
    if texts:
        return Collection(images, texts, key, captions_key)
    return Collection(images, split.texts, key, ("captions", *key), per_image)


def check(settings: Mapping[str, Any]) -> None:
    """What can be wrong without looking at any file. InputError names the setting."""
    if type(settings["top_k"]) is not int or settings["top_k"] < 1:
        raise InputError(f"top_k: expected a whole number from 1 on, found {settings['top_k']}")
    if settings["unreadable"] not in ("warn", "error"):
        raise InputError(f"unreadable: expected warn or error, found {settings['unreadable']!r}")
    for branch, sizes in settings["coefficients"].items():
        if sizes is None:
            continue
        if not isinstance(sizes, list) or not all(type(size) is int and size >= 1 for size in sizes):
            raise InputError(f"coefficients.{branch}: expected a list of set sizes from 1 on, found {sizes}")
    if settings["images"] is not None and settings["features"] is not None:
        raise InputError("images, features: only one of them can be searched")
    read_texts(settings)
    if not Path(settings["model"]).expanduser().exists():
        raise InputError(
            f"model: {settings['model']}: no such run folder or checkpoint; "
            "`python train.py` makes runs/mini in about a minute"
        )


def read_texts(settings: Mapping[str, Any]) -> list[str]:
    """The texts of `query` and of the file `queries`. InputError for an empty one."""
    texts = [str(text).strip() for text in _as_list(settings["query"])]
    if not all(texts):
        raise InputError("query: expected words, found an empty text")
    if settings["queries"]:
        texts += sources.read_texts(Path(settings["queries"]).expanduser(), "queries")
    return texts


def read_questions(settings: Mapping[str, Any], collection: Collection, trained: Trained) -> Questions:
    """What is asked; examples of a split when nothing is. InputError for what cannot be asked."""
    asked = Questions(texts=read_texts(settings))
    wanted = _as_list(settings["query_image"])
    if wanted and not collection.captions:
        raise InputError("query_image: there are no captions to search; give captions=FILE, one per line")
    if wanted and takes_pictures(trained) and not all(_is_row(one) for one in wanted):
        paths = [Path(str(one)).expanduser() for one in wanted]
        queries = sources.picture_list(paths, **_preprocessing(trained))
        return replace(asked, source=queries, positions=list(range(len(paths))))
    if wanted:
        rows = [_row(one, collection.images()) for one in wanted]
        asked = replace(asked, source=collection.source, positions=rows)
        return replace(asked, right_captions=_right_captions(rows, collection))
    if not asked.texts and collection.captions_per_image:
        return _examples(collection)
    return asked


def _examples(collection: Collection) -> Questions:
    """A caption of some images of a split, and some of its images."""
    assert collection.captions_per_image is not None
    count, per_image = len(collection.images().items), collection.captions_per_image
    chosen = np.unique(np.linspace(0, count - 1, 2 * _EXAMPLES).astype(int)).tolist()
    images, others = chosen[::2], chosen[1::2]
    return Questions(
        texts=[collection.captions[image * per_image] for image in images],
        right_images=[{image} for image in images],
        source=collection.source,
        positions=others,
        right_captions=_right_captions(others, collection),
    )


def _right_captions(images: Sequence[int], collection: Collection) -> list[set[int]] | None:
    per_image = collection.captions_per_image
    if per_image is None:
        return None
    return [set(range(image * per_image, (image + 1) * per_image)) for image in images]


def _preprocessing(trained: Trained) -> dict[str, Any]:
    return {"side": int(trained.data_settings.get("image_side", 256)), "backbone": backbone(trained)}


def _image_dim(trained: Trained) -> int:
    """D of the region features that a model takes."""
    encoder = trained.model.img_enc
    assert isinstance(encoder, RegionEncoder)
    return encoder.fc.in_features


def _asks_texts(settings: Mapping[str, Any]) -> bool:
    return settings["query"] is not None or settings["queries"] is not None


def _is_row(value: object) -> bool:
    return str(value).isdecimal() and not Path(str(value)).exists()


def _row(value: object, source: Source) -> int:
    """A row by number or by name."""
    text = str(value)
    if text.isdecimal() and int(text) < len(source.items):
        return int(text)
    for row, item in enumerate(source.items):
        if item.name == text:
            return row
    raise InputError(
        f"query_image: expected the number (below {len(source.items)}) or the name of an image "
        f"that is searched, found {text!r}"
    )


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _path(value: Any) -> Path | None:
    return None if value is None else Path(str(value)).expanduser()
