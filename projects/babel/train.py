"""Train on WikiScenes: concepts of landmarks, their masks, and pixel features that agree between views (ICCV 2021).

python train.py                                  embedded mini landmarks, CPU, a minute or two
python train.py experiment=smoke                 the same, a few steps
python train.py experiment=wiki_resnet50         WikiScenes, 1 GPU, as released (run_wikiscenes_resnet50.sh)
torchrun --standalone --nproc_per_node=2 train.py experiment=wiki_resnet50     2 GPUs, negatives of the global batch

Every ablation is in configs/experiment/. Killed at any moment, the same command continues.
"""

from omegaconf import DictConfig

from projects.babel import closing, engine, objective, optim
from projects.babel.checks import check_training
from projects.babel.data import DataSet
from projects.babel.model import build_model
from projects.babel.run_state import Saved
from projects.babel.starting_point import starting_point
from shared import checkpoint, config, log, runtime
from shared.data import TrainSampler

FREE_KEYS = (*log.FREE_KEYS, "snapshots")  # may change when a run continues


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Train; validate and write a snapshot before every second epoch and at the end, as released."""
    settings = config.section(cfg)
    check_training(settings)
    epochs, batch_size = cfg.optim.epochs + cfg.optim.inclusive_epochs, cfg.optim.batch_size
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        dataset = DataSet(**settings["data"])
        train, validated = closing.open_splits(dataset, seed=cfg.seed)
        sampler = TrainSampler(len(train), batch_size, seed=cfg.seed, rank=rt.rank, world_size=rt.world_size)
        per_epoch = sampler.steps_per_epoch
        is_new = not (config.run_dir() / checkpoint.LAST).exists()
        model = build_model(concepts=len(dataset.concepts), **settings["model"]).to(rt.device)
        start = starting_point(cfg.resume_from if is_new else None, cfg.init_from if is_new else None)
        start.load_weights(model)
        engine.prepare(model, rt, seed=cfg.seed, sync_batchnorm=cfg.sync_batchnorm)
        optimizer = optim.build_optimizer(model, **engine.optimizer_settings(settings["optim"]))
        scaler = rt.grad_scaler()
        at = start.load_states(optimizer, scaler, epochs=epochs)

        with log.open_run(config.run_dir(), settings, rt, free_keys=FREE_KEYS) as run:
            parts = {"model": model, "optimizer": optimizer, "scaler": scaler, "run": run}
            saved = Saved(run.dir, rt, parts, settings)
            resumed = saved.resume()
            at = resumed or at
            run.rewind(at.step if resumed else -1)
            end = closing.EndOfEpoch(run, rt, model, optimizer, validated, settings, epochs=epochs)
            if not resumed:
                closing.report_data(run, train, validated)
                end.validate(at, objective.of_epoch(settings, at.epoch, train))
                saved.save(at)
            bar = run.progress(epochs * per_epoch, start=at.position(per_epoch), items_per_step=batch_size)
            for epoch in range(at.epoch, epochs):
                optim.set_learning_rates(optimizer, cfg.optim.milestones, epoch)
                aim = objective.of_epoch(settings, epoch, train)
                plans = sampler.plans(epoch, first_step=at.step_in_epoch)
                for batch, clock in engine.batches(train, plans, rt, workers=cfg.workers):
                    where = f"epoch {epoch}, step {at.step_in_epoch + 1}"
                    draws = (cfg.seed, epoch, at.step_in_epoch)
                    result = engine.train_step(
                        model, optimizer, batch, aim, runtime=rt, batch_size=batch_size,
                        draw_seed=draws, scaler=scaler, where=where,
                    )  # fmt: skip
                    at.advance()
                    bar.update(loss=result.loss)
                    if at.step % cfg.log_every == 0:
                        engine.record(run, at, optimizer, result, clock)
                    if at.step % cfg.save_every == 0 and at.step_in_epoch < per_epoch:
                        saved.save(at)
                at.end_epoch()
                end.validate(at, objective.of_epoch(settings, at.epoch, train))
                saved.save(at)
            bar.close()
            run.finish(at.found, steps=at.step)
            run.info(f"trained for {at.epoch} epochs: {run.dir}")


if __name__ == "__main__":
    main()
