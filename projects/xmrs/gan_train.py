"""Train the GAN that draws dishes from recipes, on a trained retrieval model (X-MRS, ACM MM 2021, section 3.3).

python gan_train.py                                    embedded mini kitchen, after python train.py
python gan_train.py experiment=gan_smoke               the same, a few steps
python gan_train.py experiment=gan encoder=runs/x_mrs  Recipe1M, 1 GPU
torchrun --standalone --nproc_per_node=2 gan_train.py experiment=gan encoder=runs/x_mrs

The image encoder stays frozen. After every epoch recipes are searched with the images synthesised from them.
Killed at any moment, the same command continues.
"""

from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig

from projects.xmrs import gan_engine, gan_schedule, gan_setup
from projects.xmrs.data import DataSet
from projects.xmrs.discriminator import Discriminator
from projects.xmrs.gan_checks import check_gan_training
from projects.xmrs.generator import Generator
from shared import checkpoint, config, log, runtime
from shared.data import TrainSampler

FREE_KEYS = (*log.FREE_KEYS, "eval_batch_size", "keep_every")  # may change when a run continues
RATES = ("learning_rate", "auto_drop", "drop_generator_epoch", "drop_discriminator_epoch")


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Train both networks, validate by retrieval after every epoch, keep the best."""
    settings = config.section(cfg)
    check_gan_training(settings)
    hyper, epochs, batch_size = settings["optim"], cfg.optim.epochs, cfg.optim.batch_size
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        dataset = DataSet(**settings["data"])
        names = [dataset.train_split, dataset.val_split]
        sources = gan_setup.open_sources(dataset, names, cfg.encoder, cfg.embeddings, rt, seed=cfg.seed)
        num_items = len(sources.splits[names[0]])
        sampler = TrainSampler(num_items, batch_size, seed=cfg.seed, rank=rt.rank, world_size=rt.world_size)
        per_epoch, weights = sampler.steps_per_epoch, gan_engine.LossWeights(**settings["loss"])
        made = Generator(embed_dim=sources.retrieval.embed_dim, side=cfg.side, **settings["generator"])
        sizes = {"condition_dim": made.condition_dim, "side": cfg.side}
        classes = cfg.num_classes or sources.num_classes()
        judge = Discriminator(num_classes=classes, **sizes, **settings["discriminator"])

        with log.open_run(config.run_dir(), settings, rt, free_keys=FREE_KEYS) as run:
            job = gan_setup.prepare(settings, sources, (made, judge), run.dir, rt)
            parts: dict[str, Any] = {**job.networks.parts(), "photos": job.train.split, "run": run}
            saved = checkpoint.resume(run.dir, runtime=rt, modules=parts)
            at = gan_engine.Progress(**saved or {})
            run.rewind(at.step)

            def save(best: bool = False) -> None:
                checkpoint.save(
                    run.dir, runtime=rt, modules=parts, progress=asdict(at), config=settings, best=best
                )

            bar = run.progress(epochs * per_epoch, start=at.position(per_epoch), items_per_step=batch_size)
            for epoch in range(at.epoch, epochs):
                rates = gan_schedule.rates(epoch, at.drops, **{key: hyper[key] for key in RATES})
                job.networks.set_rates(*rates)
                plans = sampler.plans(epoch, first_step=at.step_in_epoch)
                for batch in gan_engine.batches(job.train, plans, rt, workers=cfg.workers):
                    where = f"epoch {epoch + 1}, step {at.step_in_epoch}"
                    losses = gan_engine.train_step(
                        job.networks, batch, weights=weights, runtime=rt, where=where
                    )
                    at.advance()
                    bar.update(D=losses["discriminator"], G=losses["generator"])
                    if at.step % cfg.log_every == 0:
                        run.scalars(at.step, {"epoch": epoch + 1, "lr": rates[0], **losses})
                    if at.step % cfg.save_every == 0 and at.step_in_epoch < per_epoch:
                        save()
                found = gan_setup.validated(job, epoch, settings, rt)
                best = at.end_epoch(found, rates[0])
                at.drop_if_due(hyper)
                gan_setup.after_epoch(run, at, job, found, best=best, settings=settings)
                save(best)
            bar.close()
            run.finish(at.best, steps=at.step)
            run.info(f"best epoch {at.best['epoch']}: R@1 {100 * at.best['r1']:.1f} %: {run.dir}")


if __name__ == "__main__":
    main()
