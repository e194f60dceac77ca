"""Train X-MRS (Guerrero, Pham, Pavlovic: "Cross-modal Retrieval and Synthesis (X-MRS)", ACM MM 2021).

python train.py                                  embedded mini kitchen, 2 CPU cores, about two minutes
python train.py experiment=smoke                 the same, a few steps
python train.py experiment=x_mrs                 Recipe1M, 1 GPU: medR 1.0, R@1 64.0 among 1,000 (paper)
torchrun --standalone --nproc_per_node=4 train.py experiment=x_mrs      4 GPUs, negatives of the global batch

Every ablation of the paper is in configs/experiment/. Killed at any moment, the same command continues.
"""

from typing import Any

from omegaconf import DictConfig

from projects.xmrs import closing, engine, optim, schedule
from projects.xmrs.checks import check_training, vocabulary_size
from projects.xmrs.data import DataSet
from projects.xmrs.model import FoodSpaceNet
from projects.xmrs.run_state import Saved
from projects.xmrs.starting_point import starting_point
from shared import checkpoint, config, log, runtime
from shared.data import TrainSampler

FREE_KEYS = (*log.FREE_KEYS, "final_splits")  # may change when a run continues


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Train and validate; keep the epoch with the largest R@1 + R@5 + R@10, and the one with the lowest medR."""
    settings = config.section(cfg)
    check_training(settings)
    epochs, batch_size = cfg.optim.epochs, cfg.optim.batch_size
    medr, every = cfg.validation.medr, cfg.validation.every
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        dataset = DataSet(**settings["data"])
        train, val, reported = closing.open_splits(dataset, cfg.final_splits, seed=cfg.seed, medr=medr)
        sampler = TrainSampler(len(train), batch_size, seed=cfg.seed, rank=rt.rank, world_size=rt.world_size)
        per_epoch = sampler.steps_per_epoch
        of_text = settings["model"]["text"]
        of_text["vocab_size"] = vocabulary_size(of_text["vocab_size"], dataset.vocab_size())
        model = FoodSpaceNet(**settings["model"]).to(rt.device)
        is_new = not (config.run_dir() / checkpoint.LAST).exists()
        start = starting_point(cfg.resume_from if is_new else None, cfg.init_from if is_new else None)
        start.load_weights(model)
        is_compact = cfg.compact_word_table and cfg.optim.weight_decay == 0  # decay moves every row
        table = dataset.corpus_tokens() if is_compact else None
        engine.prepare(model, rt, seed=cfg.seed, sync_batchnorm=cfg.sync_batchnorm, word_table=table)
        rates = schedule.planned_rates(settings["optim"])
        optimizer = schedule.build_optimizer(model, settings["optim"], rates)
        scaler = rt.grad_scaler()
        at = start.load_states(optimizer, scaler, epochs=epochs)

        with log.open_run(config.run_dir(), settings, rt, free_keys=FREE_KEYS) as run:
            parts = {"model": model, "optimizer": optimizer, "scaler": scaler, "train": train, "val": val}
            saved = Saved(run.dir, rt, {**parts, "run": run}, settings)
            at = saved.resume() or at
            run.rewind(at.step)
            asked = {"medr": medr, "query": cfg.validation.query}
            loading: dict[str, Any] = {"batch_size": batch_size, "workers": cfg.workers}
            bar = run.progress(epochs * per_epoch, start=at.position(per_epoch), items_per_step=batch_size)
            for epoch in range(at.epoch, epochs):
                optim.set_learning_rates(optimizer, rates[epoch])
                plans = sampler.plans(epoch, first_step=at.step_in_epoch)
                for batch, clock in engine.batches(train, plans, rt, workers=cfg.workers):
                    where = f"epoch {epoch + 1}, step {at.step_in_epoch + 1}"
                    result = engine.train_step(
                        model, optimizer, batch, runtime=rt, scaler=scaler, where=where, **settings["loss"]
                    )
                    at.advance()
                    bar.update(loss=result.loss)
                    if at.step % cfg.log_every == 0:
                        engine.record(run, at, optimizer, result, clock)
                    if at.step % cfg.save_every == 0 and at.step_in_epoch < per_epoch:
                        saved.save(at)
                found = None
                if (epoch + 1) % every == 0 or epoch + 1 == epochs:
                    found = engine.validate(model, val, rt, loss=settings["loss"], **asked, **loading)
                    engine.record_validation(run, at, found)
                engine.report_unreadable(run, (train, val))
                saved.save(at, best=at.end_epoch(found))
            bar.close()
            others = closing.evaluate_best(
                run.dir, model, reported, rt, medr=medr, strata=dataset.strata, **loading
            )
            engine.report_unreadable(run, reported.values())
            run.finish({**at.best, "lowest_medr": at.lowest_medr, **others}, steps=at.step)
            run.info(f"best epoch {at.best['epoch']}: {engine.summary(at.best)}: {run.dir}")


if __name__ == "__main__":
    main()
