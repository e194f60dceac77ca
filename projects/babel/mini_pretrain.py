"""Train the backbone that runs on the embedded data start from, as the paper's start from ImageNet weights.

python mini_pretrain.py                          five minutes on one CPU core: runs/mini-backbone/backbone.pt
python train.py model.weights=runs/mini-backbone/backbone.pt
"""

import torch
from omegaconf import DictConfig

from projects.babel import mini_pretraining as pretraining
from shared import config, log, runtime
from shared.data import TrainSampler
from shared.files import atomic_write


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Draw pictures, learn to name what their pixels show, keep the backbone."""
    settings = config.section(cfg)
    with (
        runtime.start(**settings["runtime"], seed=cfg.seed) as rt,
        log.open_run(config.run_dir(), settings, rt) as run,
    ):
        run.info(f"drawing {cfg.pictures + cfg.held_out} pictures ...")
        data = pretraining.ObjectPictures(
            cfg.pictures + cfg.held_out, seed=cfg.seed, side=cfg.side, crop=cfg.crop
        )
        model = pretraining.PartNamer(**settings["model"]).to(rt.device).to(memory_format=torch.channels_last)
        sampler = TrainSampler(cfg.pictures, cfg.optim.batch_size, seed=cfg.seed)
        steps = cfg.optim.epochs * sampler.steps_per_epoch
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=cfg.optim.weight_decay)
        bar = run.progress(steps, items_per_step=cfg.optim.batch_size)
        for epoch in range(cfg.optim.epochs):
            model.train()
            for plan in sampler.plans(epoch):
                step = epoch * sampler.steps_per_epoch + plan.step
                rate = cfg.optim.learning_rate * pretraining.one_cycle(step, steps)
                optimizer.param_groups[0]["lr"] = rate
                images, parts = (tensor.to(rt.device) for tensor in data.training_batch(plan))
                with rt.autocast():
                    logits = model(images)
                loss = pretraining.naming_loss(logits, parts)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                bar.update(loss=float(loss.detach()))
        bar.close()
        images, parts = data.evaluation_batch(range(cfg.pictures, cfg.pictures + cfg.held_out))
        with torch.no_grad():
            logits = torch.cat([model.eval()(some.to(rt.device)).cpu() for some in images.split(50)])
        found = pretraining.accuracies(logits, parts)
        with atomic_write(run.dir / "backbone.pt") as file:
            torch.save(model.backbone_state(), file)
        run.finish(found)
        shown = ", ".join(f"{name} {100 * value:.0f}" for name, value in found.items())
        run.info(f"held-out pictures, named right, %: {shown}: {run.dir / 'backbone.pt'}")


if __name__ == "__main__":
    main()
