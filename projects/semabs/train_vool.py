"""Train visually obscured object localisation (Ha and Song: "Semantic Abstraction", CoRL 2022).

python train_vool.py                                 embedded rooms, CPU; makes what it needs the first time
python train_vool.py experiment=smoke_vool           the same, a few steps
python train_vool.py model.approach=clip_spatial     the baseline that reads the relevancy of whole sentences
torchrun --standalone --nproc_per_node=8 train_vool.py experiment=vool_semabs        THOR, as released

Every released run is in configs/experiment/. Killed at any moment, the same command continues.
"""

from omegaconf import DictConfig

from projects.semabs import closing, engine, optim, sources
from projects.semabs.checks import check_training
from projects.semabs.item_settings import ItemSettings
from projects.semabs.model import build_network
from projects.semabs.run_state import Saved
from projects.semabs.starting_point import starting_point
from shared import checkpoint, config, log, runtime
from shared.data import TrainSampler

TASK = "vool"
FREE_KEYS = (*log.FREE_KEYS, "snapshots")  # may change when a run continues


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Train; validate and write snapshots between epochs."""
    settings = {"task": TASK, **config.section(cfg)}
    check_training(TASK, settings)
    batch_size, bounds, clip = cfg.optim.batch_size, settings["items"]["scene_bounds"], cfg.optim.clip
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        items = ItemSettings(**settings["items"])
        train, validated = sources.open_splits(TASK, settings, items, rt)
        sampler = TrainSampler(len(train), batch_size, seed=cfg.seed, rank=rt.rank, world_size=rt.world_size)
        per_epoch = sampler.steps_per_epoch
        length = optim.length_of(settings["optim"], scenes=len(train), steps_per_epoch=per_epoch)
        is_new = not (config.run_dir() / checkpoint.LAST).exists()
        start = starting_point(cfg.resume_from if is_new else None, cfg.init_from if is_new else None)
        encoder = sources.text_encoder(settings, rt)  # of names, where the approach wants it
        network = build_network(task=TASK, bounds=bounds, text_encoder=encoder, **settings["model"])
        network.to(rt.device)
        start.load_weights(network)
        optimizer, scaler = optim.build_optimizer(network.parameters(), settings["optim"]), rt.grad_scaler()
        at = start.load_states(optimizer, scaler, epochs=length.epochs, steps_per_epoch=per_epoch)
        schedule = optim.build_schedule(optimizer, settings["optim"], length, done=at.step)

        with log.open_run(config.run_dir(), settings, rt, free_keys=FREE_KEYS) as run:
            parts = {
                "model": network,
                "optimizer": optimizer,
                "schedule": schedule,
                "scaler": scaler,
                "run": run,
            }
            saved = Saved(run.dir, rt, parts, settings)
            resumed = saved.resume()
            at = resumed or at
            run.rewind(at.step if resumed else -1)
            end = closing.EndOfEpoch(
                TASK, run, rt, network, optimizer, validated, settings, epochs=length.epochs
            )
            bar = run.progress(length.steps, start=at.step, items_per_step=batch_size)
            for epoch in range(at.epoch, length.epochs):
                plans = sampler.plans(epoch, first_step=at.step_in_epoch)
                for batch, clock in engine.batches(
                    train, plans, length.steps - at.step, rt, workers=cfg.workers
                ):
                    where = f"epoch {epoch + 1}, step {at.step_in_epoch + 1}"
                    result = engine.train_step(
                        TASK, network, optimizer, batch, runtime=rt, clip=clip, scaler=scaler, where=where,
                        **settings["loss"],
                    )  # fmt: skip
                    found = engine.numbers(result, batch, bounds=bounds, clip=clip)
                    at.advance(found)
                    if at.step % cfg.log_every == 0:
                        engine.record(run, at, optimizer, found, clock)
                    schedule.step()
                    bar.update(loss=result.loss)
                    if (
                        at.step % cfg.save_every == 0
                        and at.step_in_epoch < per_epoch
                        and at.step < length.steps
                    ):
                        saved.save(at)
                end.finish(at)
                saved.save(at)
            bar.close()
            run.finish(at.found, steps=at.step)
            run.info(f"trained for {at.step} steps: {run.dir}")


if __name__ == "__main__":
    main()
