"""Opening what the GAN works with: the retrieval model, the splits with their embeddings, the networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from projects.xmrs import gan_data, gan_files, released, trained
from projects.xmrs.checks import check_split_sizes
from projects.xmrs.data import DataSet, Split
from projects.xmrs.discriminator import Discriminator
from projects.xmrs.embeddings import Embedded
from projects.xmrs.frozen_encoder import FrozenEncoder
from projects.xmrs.gan_data import GanSplit
from projects.xmrs.gan_engine import Networks, Progress, build_networks, validate
from projects.xmrs.gan_options import released_options
from projects.xmrs.generator import Generator
from projects.xmrs.image_encoder import FoodSpaceImageEncoder
from projects.xmrs.model import FoodSpaceNet, image_encoder_of
from shared.errors import InputError
from shared.log import Run
from shared.runtime import Runtime

IMAGE_ENCODER = "*_image_encoder*"


@dataclass(frozen=True)
class Retrieval:
    """What synthesis needs of a retrieval model.

    Attributes:
        encoder: its image branch.
        model: the whole, None when there is a file of the image branch alone.
        folder: the run folder, where embedding files are looked for.
        file: the weights.
    """

    encoder: FoodSpaceImageEncoder
    model: FoodSpaceNet | None
    folder: Path
    file: Path

    @property
    def embed_dim(self) -> int:
        """D."""
        return len(self.encoder.state_dict()["align.0.bias"])


def open_retrieval(path: str | Path, runtime: Runtime) -> Retrieval:
    """Open a retrieval model.

    Args:
        path: a run folder or checkpoint (see `trained.load`), or a file `*_image_encoder.pth.tar`, or a folder
            whose models/ holds one.
        runtime: where it is put.

    Raises:
        InputError: nothing there, or not a retrieval model.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"{path}: no such retrieval run; python train.py makes one (encoder=<its folder>)")
    alone = _image_encoder_file(path)
    if alone is not None:
        encoder = released.read_image_encoder(alone, device=runtime.device)
        return Retrieval(encoder, None, _run_folder(alone), alone)
    found = trained.load(path, device=runtime.device)
    return Retrieval(image_encoder_of(found.model), found.model, _run_folder(found.path), found.path)


def _image_encoder_file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.match(IMAGE_ENCODER) else None
    files = sorted((path / "models").glob(f"model_BEST_REC{IMAGE_ENCODER}"))
    others = [file for file in (path / "models").glob("*.pth.tar") if not file.match(IMAGE_ENCODER)]
    return files[-1] if files and not others else None


def _run_folder(file: Path) -> Path:
    return file.parent.parent if file.parent.name == "models" else file.parent


@dataclass(frozen=True)
class Sources:
    """A data set's splits for the GAN, before their embeddings are there."""

    dataset: DataSet
    splits: dict[str, Split]
    retrieval: Retrieval
    embeddings: Path | None

    def num_classes(self) -> int:
        """Classes of the training split, with the background; reads every recipe of it."""
        return gan_data.num_classes(self.splits[self.dataset.train_split])

    def embed(
        self, name: str, folders: Sequence[Path], runtime: Runtime, *, batch_size: int, workers: int | None
    ) -> Embedded:
        """The embeddings of a split: those that `eval.py` wrote or that are in one of `folders`, else made
        once and kept in the last of these.
        """
        split, source = self.splits[name], self.retrieval
        places = [self.embeddings or source.folder, *folders]
        how: dict[str, Any] = {"batch_size": batch_size, "workers": workers}
        return gan_data.load_or_make(
            places, split, source.model, source.file.name, runtime, dim=source.embed_dim, **how
        )


def open_sources(
    dataset: DataSet, names: list[str], encoder: str, embeddings: str | None, runtime: Runtime, *, seed: int
) -> Sources:
    """Open splits and the retrieval model, before anything is written.

    Args:
        dataset: the set; made on first use where it is embedded.
        names: of the splits.
        encoder: see `open_retrieval`.
        embeddings: folder of the embedding files; None: the retrieval run's.
        runtime: where the model is put.
        seed: of the draws of training.

    Raises:
        InputError: what is missing or does not fit.
    """
    dataset.prepare()
    splits = {name: dataset.open(name, seed=seed) for name in names}
    folder = None if embeddings is None else Path(embeddings).expanduser()
    if folder is not None and not folder.is_dir():
        raise InputError(f"embeddings: no such folder {folder}")
    return Sources(dataset, splits, open_retrieval(encoder, runtime), folder)


@dataclass(frozen=True)
class Training:
    """Everything that gan_train.py's loop works with."""

    networks: Networks
    train: GanSplit
    val: GanSplit


def prepare(
    settings: Mapping[str, Any],
    sources: Sources,
    networks: tuple[Generator, Discriminator],
    run_dir: Path,
    runtime: Runtime,
) -> Training:
    """Embeddings, starting weights and optimizers, from the plain settings of gan_train.py.

    networks: new ones; `init_generator` and `init_discriminator` name files with other weights for them.
    """
    dataset, hyper, (generator, discriminator) = sources.dataset, settings["optim"], networks
    val_size = len(sources.splits[dataset.val_split])
    check_split_sizes({dataset.val_split: val_size}, settings["validation"]["medr"])
    starts: list[tuple[nn.Module, str, str, str | None]] = [
        (generator, gan_files.GENERATOR, "generator", settings["init_generator"]),
        (discriminator, gan_files.DISCRIMINATOR, "discriminator", settings["init_discriminator"]),
    ]
    for network, which, name, start in starts:
        if start:
            gan_files.load_weights(network, start, which, name=name)
    classes = discriminator.semantic_branch.out_features

    def embedded(name: str) -> GanSplit:
        found = sources.embed(
            name, [run_dir], runtime, batch_size=settings["eval_batch_size"], workers=settings["workers"]
        )
        return GanSplit(
            sources.splits[name],
            found,
            side=generator.side,
            noise_dim=generator.noise_dim,
            condition_dim=generator.condition_dim,
            seed=settings["seed"],
            num_classes=classes,
        )

    train, val = embedded(dataset.train_split), embedded(dataset.val_split)
    built = build_networks(
        generator,
        discriminator,
        FrozenEncoder(sources.retrieval.encoder, dataset.side),
        runtime,
        learning_rate=hyper["learning_rate"],
        weight_decay=hyper["weight_decay"],
        sync_batchnorm=settings["sync_batchnorm"],
    )
    if runtime.is_main:
        options = released_options(settings, num_classes=classes, embed_dim=generator.embed_dim)
        gan_files.write_options(run_dir, options)
    return Training(built, train, val)


def validated(
    job: Training, epoch: int, settings: Mapping[str, Any], runtime: Runtime
) -> dict[str, float] | None:
    """The metrics of the validation after an epoch counted from 0; None where it has none."""
    every, last = settings["validation"]["every"], settings["optim"]["epochs"]
    if (epoch + 1) % every and epoch + 1 != last:
        return None
    return validate(
        job.networks,
        job.val,
        runtime,
        medr=settings["validation"]["medr"],
        seed=settings["seed"],
        batch_size=settings["eval_batch_size"],
    )


def after_epoch(
    run: Run,
    at: Progress,
    job: Training,
    found: Mapping[str, float] | None,
    *,
    best: bool,
    settings: Mapping[str, Any],
) -> None:
    """Report a finished epoch and write the files that the released scripts write."""
    for line in job.train.split.newly_unreadable():
        run.warn("unreadable photo", line)
    if found is not None:
        run.scalars(at.step, dict(found))
        run.info(
            f"epoch {at.epoch}: recipes found by synthesised images: medR {found['medr']:.1f}, "
            f"R@1 {100 * found['r1']:.1f} %{' (best)' if best else ''}"
        )
    if not run.runtime.is_main:
        return
    made, judge = job.networks.generator, job.networks.discriminator
    gan_files.write_trace(run.dir, at.trace)
    if best:
        gan_files.save_models(run.dir, at.epoch, made, judge, only=True)
    if at.epoch % settings["keep_every"] == 0:
        gan_files.save_models(run.dir, at.epoch, made, judge, ending=gan_files.REGULAR)
    if at.epoch == settings["optim"]["epochs"]:
        gan_files.save_models(run.dir, at.epoch, made, judge, ending=gan_files.LAST, only=True)
