"""Train VSE-infinity (Chen et al., "Learning the Best Pooling Strategy for Visual Semantic Embedding", 2021).

python train.py                                  embedded data, 2 CPU cores, a minute: dev rsum about 580
python train.py experiment=smoke                 the same, a few steps
python train.py experiment=coco_region_bigru     COCO regions + BiGRU, 1 GPU: rsum 520.8 (COCO 1K, paper)
torchrun --standalone --nproc_per_node=4 train.py experiment=coco_region_bert    4 GPUs: rsum 527.5 (paper)

All rows of the paper's tables are in configs/experiment/. Killed at any moment, the same command continues.
"""

from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig

from projects.vseinfty import closing, engine
from projects.vseinfty.checks import check_training
from projects.vseinfty.data import DataSet
from projects.vseinfty.model import build_model
from projects.vseinfty.optim import build_optimizer
from projects.vseinfty.schedule import Schedule
from projects.vseinfty.starting_point import start_from
from shared import checkpoint, config, log, runtime
from shared.data import TrainSampler

FREE_KEYS = (*log.FREE_KEYS, "eval_batch_size", "micro_batch", "compile")  # may change when a run continues
OPTIMIZER = ("name", "learning_rate", "weight_decay", "backbone_lr_factor", "gpo_lr_factor")
SCHEDULE = ("lr_update", "embedding_warmup_epochs", "backbone_warmup_epochs")


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Train, validate after every epoch, keep the best epoch by rsum."""
    settings = config.section(cfg)
    check_training(settings)
    hyper = settings["optim"]
    epochs, batch_size = hyper["epochs"], hyper["batch_size"]
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        dataset = DataSet(**settings["data"])
        train, dev, vocab_size = engine.open_data(dataset, settings["model"], seed=cfg.seed)
        reported = closing.open_splits(dataset, cfg.final_splits, settings["model"])
        share = {"drop_last": hyper["drop_last"], "rank": rt.rank, "world_size": rt.world_size}
        sampler = TrainSampler(len(train), batch_size, seed=cfg.seed, **share)
        per_epoch = sampler.steps_per_epoch
        model = build_model(vocab_size=vocab_size, **settings["model"]).to(rt.device)
        engine.prepare(model, rt, seed=cfg.seed, sync_batchnorm=cfg.sync_batchnorm, compiled=cfg.compile)
        optimizer = build_optimizer(model, **{key: hyper[key] for key in OPTIMIZER})
        timing = {key: hyper[key] for key in SCHEDULE}
        schedule = Schedule(model, optimizer, sampler, **timing, **settings["loss"])
        scaler = rt.grad_scaler()
        source = None if (config.run_dir() / checkpoint.LAST).exists() else cfg.resume_from
        start = start_from(source, model, optimizer, scaler, weights_only=cfg.reset_start_epoch)

        with log.open_run(config.run_dir(), settings, rt, free_keys=FREE_KEYS) as run:
            parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scaler": scaler, "run": run}
            saved = checkpoint.resume(run.dir, runtime=rt, modules=parts)
            at = engine.Progress(**saved) if saved else start
            run.rewind(at.step)

            def save(best: bool = False) -> None:
                checkpoint.save(
                    run.dir, runtime=rt, modules=parts, progress=asdict(at), config=settings, best=best
                )

            how: dict[str, Any] = {"runtime": rt, "scaler": scaler}
            how |= {"grad_clip": hyper["grad_clip"], "micro_batch": cfg.micro_batch}
            bar = run.progress(epochs * per_epoch, start=at.position(per_epoch), items_per_step=batch_size)
            for epoch in range(at.epoch, epochs):
                schedule.start_epoch(epoch)
                plans = sampler.plans(epoch, first_step=at.step_in_epoch)
                for batch, clock in engine.batches(train, plans, rt, workers=cfg.workers):
                    form = schedule.start_step(epoch, at.step_in_epoch)
                    where = f"epoch {epoch}, step {at.step_in_epoch}"
                    result = engine.train_step(model, optimizer, batch, **form, **how, where=where)
                    at.advance()
                    bar.update(loss=result.loss)
                    if at.step % cfg.log_every == 0:
                        engine.record(run, at, optimizer, result, clock)
                    if at.step % cfg.save_every == 0 and at.step_in_epoch < per_epoch:
                        save()
                found = engine.validate(model, dev, rt, batch_size=cfg.eval_batch_size, workers=cfg.workers)
                run.scalars(at.step, found)
                run.info(f"epoch {epoch}: dev rsum {found['rsum']:.1f}")
                save(best=at.end_epoch(found))
            bar.close()
            loading = {"batch_size": cfg.eval_batch_size, "workers": cfg.workers}
            others = closing.evaluate_best(run.dir, model, reported, rt, **loading)
            run.finish({**at.best, **others}, steps=at.step)
            run.info(f"best dev rsum {at.best_rsum:.1f}: {run.dir}")


if __name__ == "__main__":
    main()
