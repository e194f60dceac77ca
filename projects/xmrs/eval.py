"""Evaluate a trained model, of ours or of the released code: retrieval over ten random subsets, both ways.

python eval.py                                            the embedded set (after python train.py)
python eval.py model=runs/x_mrs medr=[1000,10000]         Recipe1M: the 1k and the 10k protocol
python eval.py model=runs/x_mrs languages=all             queries in each language
python eval.py model=RELEASED_RUN data=recipe1m data.root=FOLDER          a run folder of the released code
python eval.py model=... splits=[test,val,train] save_embeddings=true     and what gan_train.py needs
python eval.py embeddings=[foodSpace_vectors_..._test_0.npz] medr=10000   from embedding files
torchrun --standalone --nproc_per_node=4 eval.py model=...                encoding is shared out
"""

from omegaconf import DictConfig

from projects.xmrs import evaluation, examples, retrieval
from shared import config, runtime


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Encode each split once, rank, print the table; write results.json, a page, and what the GAN needs."""
    settings = config.section(cfg)
    splits, languages = (
        evaluation.splits_of(settings["splits"]),
        evaluation.languages_of(settings["languages"]),
    )
    run_dir, report, first = config.run_dir(), evaluation.Report(), None
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        if cfg.embeddings:
            job = evaluation.of_files(settings["embeddings"], medr=settings["medr"])
        else:
            job = evaluation.of_model(
                cfg.model, settings.get("data"), splits, languages, rt,
                medr=settings["medr"], text_inputs=settings["text_inputs"],
                batch_size=cfg.batch_size, workers=cfg.workers,
            )  # fmt: skip
        for encoded in job.encoded:
            if not rt.is_main:
                continue
            first = first or encoded
            found = evaluation.rankings(encoded, job.sizes, rt, seed=cfg.seed, runs=cfg.runs)
            report.add(encoded, found, evaluation.strata_metrics(job.data, encoded))
            if job.model and cfg.save_embeddings:
                report.files.append(evaluation.save_embeddings(job.model, encoded, cfg.output))
        unreadable = evaluation.all_unreadable(job.splits)
        if not rt.is_main:
            return
        print(retrieval.table(report.rows), flush=True)
        if job.model and cfg.save_embeddings:
            report.files.append(evaluation.save_image_encoder(job.model, cfg.output))
        if first and cfg.examples > 0:
            shown = {"count": cfg.examples, "top_k": cfg.top_k, "seed": cfg.seed}
            report.files += examples.try_to_write(run_dir / "index.html", job, first, rt, **shown)
        evaluation.write_results(run_dir / "results.json", settings, job, report, unreadable)


if __name__ == "__main__":
    main()
