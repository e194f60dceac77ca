"""gan_test.py's work: opening a trained generator with its retrieval model, the five steps, controls, distance."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from projects.xmrs import fid, gan_engine, gan_evaluation, gan_files, gan_setup, synthesis_metrics
from projects.xmrs.data import DataSet
from projects.xmrs.frozen_encoder import FrozenEncoder
from projects.xmrs.gan_data import GanSplit
from projects.xmrs.gan_evaluation import Subject
from projects.xmrs.gan_setup import Sources
from projects.xmrs.generator import Generator
from projects.xmrs.retrieval import ten_subsets
from shared import checkpoint, files
from shared.errors import InputError
from shared.runtime import Runtime

COUNTS = ("medr", "runs", "batch_size")


def check(settings: Mapping[str, Any]) -> None:
    """Raise InputError, naming the key, for a value that no test can have."""
    for key in COUNTS:
        if type(settings[key]) is not int or settings[key] < 1:
            raise InputError(f"{key}: expected a whole number, at least 1, found {settings[key]!r}")
    if settings["collated"] is not None and (
        type(settings["collated"]) is not int or settings["collated"] < 0
    ):
        raise InputError(f"collated: expected null or a number of recipes, found {settings['collated']!r}")


def open_subject(
    settings: Mapping[str, Any], dataset: DataSet, run_dir: Path, runtime: Runtime
) -> tuple[Subject, Sources]:
    """The generator, its image encoder and the split with its embeddings.

    Raises:
        InputError: what is missing or does not fit; more than one process.
    """
    if runtime.world_size > 1:
        raise InputError("gan_test.py runs in one process: start it with python, not with torchrun")
    path = Path(settings["generator"]).expanduser()
    generator = gan_files.load_generator(path, device=runtime.device)
    encoder = settings["encoder"] or trained_on(path)
    names = [settings["split"], *([dataset.train_split] if settings["controls"] else [])]
    sources = gan_setup.open_sources(dataset, names, encoder, settings["embeddings"], runtime, seed=0)
    if sources.retrieval.embed_dim != generator.embed_dim:
        raise InputError(
            f"{path}: made for embeddings of {generator.embed_dim} dimensions; those of {encoder} have "
            f"{sources.retrieval.embed_dim}"
        )
    subject = Subject(
        _model_name(path),
        generator,
        FrozenEncoder(sources.retrieval.encoder, dataset.side).to(runtime.device),
        _split(settings, sources, settings["split"], generator, run_dir, runtime),
        gan_evaluation.read_recipes(
            settings["recipes"], sources.splits[settings["split"]].ids, dataset.language
        ),
        runtime,
        settings["seed"],
        settings["batch_size"],
        settings["legacy_blue"],
    )
    return subject, sources


def trained_on(path: Path) -> str:
    """The retrieval run that a generator was trained on, from what lies beside it."""
    file = gan_files.find_model(path)
    if file.suffix == ".pt":
        found = checkpoint.load(file)["config"].get("encoder")
    else:
        found = gan_files.read_options(file.parent).get("encoder_dir")
        if found and not Path(found).exists() and file.parent.parent.name == "GAN_runs":
            found = str(file.parent.parent.parent)  # <encoder_dir>/GAN_runs/GAN_<time>/, moved since
    if not found:
        raise InputError(f"{file}: nothing beside it names its retrieval run: set encoder=<run folder>")
    return str(found)


def _model_name(path: Path) -> str:
    file = gan_files.find_model(path)
    return file.stem if file.suffix == ".pkl" else file.parent.name


def _split(
    settings: Mapping[str, Any],
    sources: Sources,
    name: str,
    generator: Generator,
    run_dir: Path,
    runtime: Runtime,
) -> GanSplit:
    beside = gan_files.find_model(Path(settings["generator"]).expanduser()).parent
    embedded = sources.embed(
        name, [beside, run_dir], runtime, batch_size=settings["batch_size"], workers=settings["workers"]
    )
    return GanSplit(
        sources.splits[name],
        embedded,
        side=generator.side,
        noise_dim=generator.noise_dim,
        condition_dim=generator.condition_dim,
        seed=settings["seed"],
    )


def five_steps(settings: Mapping[str, Any], subject: Subject, run_dir: Path) -> dict[str, Any]:
    """The released test; its metrics.

    1 new random subsets (nothing is reused), 2 images with random noise in a folder per recipe, 3 an image
    without noise of every recipe, 4 embeddings of those files, 5 rankings over the subsets; and among all
    recipes where `full_ranking` says so.
    """
    size = len(subject.ids)
    subsets = ten_subsets(size, settings["medr"], seed=settings["subset_seed"], runs=settings["runs"])
    files.write_json(run_dir / f"GAN_{settings['split']}_splits.json", {"rows": subsets}, indent=None)
    limit = size if settings["collated"] is None else min(size, settings["collated"])
    gan_evaluation.write_collated(run_dir, subject, np.arange(limit))
    paths = gan_evaluation.write_zero_noise(run_dir, subject)
    if settings["jpeg"]:
        fake = gan_evaluation.embed_files(run_dir, subject, paths)
    else:
        fake = gan_evaluation.embed_recipes(subject, subject.split.recipes, jpeg=False)
    images, recipes = subject.split.images, subject.split.recipes
    found: dict[str, Any] = synthesis_metrics.folds(fake, images, recipes, subsets)
    synthesis_metrics.write_folds(run_dir / "rank_random_result.csv", found)
    if settings["full_ranking"]:
        ranks = synthesis_metrics.full_ranking(fake, images, recipes)
        found["full"] = synthesis_metrics.write_full(run_dir, subject.ids, ranks)
    return {**found, **synthesis_metrics.cosines(fake, images, recipes)}


def controls(
    settings: Mapping[str, Any], subject: Subject, sources: Sources, run_dir: Path
) -> dict[str, dict[str, Any]]:
    """The same rankings with images of `shuffled` recipes, and with the mean photo of the recipe's class."""
    images, recipes = subject.split.images, subject.split.recipes
    subsets = ten_subsets(
        len(subject.ids), settings["medr"], seed=settings["subset_seed"], runs=settings["runs"]
    )
    others = recipes[synthesis_metrics.derangement(len(recipes), settings["seed"])]
    name = sources.dataset.train_split
    train = _split(settings, sources, name, subject.generator, run_dir, subject.runtime)
    embedded = {
        "shuffled": gan_evaluation.embed_recipes(subject, others, jpeg=settings["jpeg"]),
        "class_mean": gan_evaluation.embed_class_means(subject, train, jpeg=settings["jpeg"]),
    }
    return {
        control: {
            **synthesis_metrics.folds(fake, images, recipes, subsets),
            **synthesis_metrics.cosines(fake, images, recipes),
        }
        for control, fake in embedded.items()
    }


def distances(subject: Subject, *, network: str | None, trust_program: bool) -> dict[str, Any]:
    """FID and Inception score where there are weights, and always the distance in the image encoder's space."""
    fake, real = fid.Statistics(), fid.Statistics()
    runtime = subject.runtime
    made = gan_engine.embed_synthesised(
        subject.generator,
        subject.encoder,
        subject.split.recipes,
        runtime,
        seed=subject.seed,
        batch_size=subject.batch_size,
    )
    fake.add(made)
    real.add(subject.split.images)
    found: dict[str, Any] = {"frechet_image_encoder": fid.frechet_distance(fake, real)}
    if network is None:
        return {**found, "fid": None, "inception_score": None, "fid_note": fid.NO_WEIGHTS}
    extract = fid.load_network(network, trust_program=trust_program, device=runtime.device)
    of_fake = fid.score(extract, gan_evaluation.fake_batches(subject))
    of_real = fid.score(extract, gan_evaluation.real_batches(subject))
    found["fid"] = fid.frechet_distance(of_fake.statistics, of_real.statistics)
    found["inception_score"] = None
    if of_fake.probabilities:
        mean, deviation = fid.inception_score(np.concatenate(of_fake.probabilities))
        found |= {"inception_score": mean, "inception_score_deviation": deviation}
    return found


def line(found: Mapping[str, Any]) -> str:
    """Cosines and distances for the terminal."""
    text = (
        f"mean cosine to the recipe {found['cos_recipe']:.3f}, to the real image {found['cos_image']:.3f}; "
        f"Frechet distance in the image encoder's space {found['frechet_image_encoder']:.4f}"
    )
    if found["fid"] is None:
        return f"{text}\n{found['fid_note']}"
    scored = found["inception_score"]
    return f"{text}; FID {found['fid']:.2f}" + (
        f"; Inception score {scored:.2f}" if scored is not None else ""
    )
