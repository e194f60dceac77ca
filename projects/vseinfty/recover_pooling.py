"""Recover known pooling operators from synthetic sets (paper, supplementary table 6). Needs no data.

python recover_pooling.py       6 encoders x 5 operators x 3 seeds, 1 CPU core, about 70 s
                                root mean square error of GPO's coefficients: .00 (Avg) to .01 (Top-50%)

Prints the table beside the paper's numbers and writes runs/recover_pooling/results.json. Killed, the same
command continues with the encoder it was at, to the same numbers.
"""

from functools import partial

from omegaconf import DictConfig

from projects.vseinfty import recovery
from shared import config, log, runtime
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Train every encoder, measure the coefficients on seen and unseen set sizes."""
    settings = config.section(cfg)
    training, sizes = settings["training"], range(cfg.smallest_size, cfg.largest_size + 1)
    seen, unseen = list(sizes[::2]), list(sizes[1::2])
    if cfg.smallest_size < 1 or not unseen or not cfg.seeds:
        raise InputError(
            "smallest_size, largest_size, seeds: expected at least two sizes from 1 on and one seed, found "
            f"{cfg.smallest_size}, {cfg.largest_size}, {list(cfg.seeds)}"
        )
    with (
        runtime.start(**settings["runtime"]) as rt,
        log.open_run(config.run_dir(), settings, rt, free_keys=("runtime",)) as run,
    ):
        if run.finished:
            run.info(f"{run.dir}: finished already")
            return
        finished = recovery.Finished(run.dir / "finished_encoders.json")
        encoders = [(p, d) for d in recovery.DECODERS for p in recovery.POSITION_ENCODINGS]
        total = len(encoders) * training["steps"]
        bar = run.progress(total, start=len(finished) * training["steps"])
        for positions, decoder in encoders:
            name = f"{positions}_{decoder}"
            if name in finished:
                continue
            encoder = recovery.train_encoder(
                positions,
                decoder,
                seeds=settings["seeds"],
                train_sizes=seen,
                after_step=partial(bar.update, 1, encoder=name),
                **training,
            )
            finished.add(name, seen=recovery.errors(encoder, seen), unseen=recovery.errors(encoder, unseen))
        run.info(recovery.table(finished.errors))
        run.finish(recovery.metrics(finished.errors), paper=recovery.PAPER_RMSE)


if __name__ == "__main__":
    main()
