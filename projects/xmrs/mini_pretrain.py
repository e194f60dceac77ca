"""Train the CNN that the runs on the embedded data start from, as the paper's start from ImageNet weights.

python mini_pretrain.py                          about a minute on one CPU core: runs/mini-cnn/cnn.pt
python train.py model.image.weights=runs/mini-cnn/cnn.pt
"""

import torch
from omegaconf import DictConfig

from projects.xmrs import mini_pretraining as pretraining
from shared import config, log, runtime
from shared.data import TrainSampler
from shared.files import atomic_write


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Draw photos, learn to name what is on them, keep the CNN."""
    settings = config.section(cfg)
    sides = {"side": cfg.side, "resize": cfg.resize}
    with (
        runtime.start(**settings["runtime"], seed=cfg.seed) as rt,
        log.open_run(config.run_dir(), settings, rt) as run,
    ):
        data = pretraining.DishPhotos(cfg.photos + cfg.held_out, seed=cfg.seed)
        held_out = range(cfg.photos, cfg.photos + cfg.held_out)
        model = pretraining.DishNamer(**settings["model"]).to(rt.device).to(memory_format=torch.channels_last)
        sampler = TrainSampler(cfg.photos, cfg.optim.batch_size, seed=cfg.seed)
        steps = cfg.optim.epochs * sampler.steps_per_epoch
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=cfg.optim.weight_decay)
        bar = run.progress(steps, items_per_step=cfg.optim.batch_size)
        for epoch in range(cfg.optim.epochs):
            model.train()
            for plan in sampler.plans(epoch):
                step = epoch * sampler.steps_per_epoch + plan.step
                rate = cfg.optim.learning_rate * pretraining.one_cycle(step, steps)
                optimizer.param_groups[0]["lr"] = rate
                images = data.training_images(plan, **sides).to(rt.device)
                labels, others = (x[plan.indices].to(rt.device) for x in (data.labels, data.others))
                loss = pretraining.naming_loss(model(images), labels, others)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                bar.update(loss=float(loss.detach()))
        bar.close()
        with torch.no_grad():
            logits = model.eval()(data.evaluation_images(held_out, **sides).to(rt.device)).cpu()
        found = pretraining.accuracies(logits, data.labels[cfg.photos :], data.others[cfg.photos :])
        with atomic_write(run.dir / "cnn.pt") as file:
            torch.save(model.cnn.to("cpu").to(memory_format=torch.contiguous_format).state_dict(), file)
        run.finish(found)
        shown = ", ".join(f"{name} {100 * value:.0f}" for name, value in found.items())
        run.info(f"held-out photos named right, %: {shown}: {run.dir / 'cnn.pt'}")


if __name__ == "__main__":
    main()
