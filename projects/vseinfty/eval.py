"""Evaluate a trained or released model: image-text retrieval, CxC retrieval and CxC correlation.

python eval.py                                               embedded data (after python train.py)
python eval.py run=runs/coco_region_bigru                    a run of ours: COCO 1K (5 folds) and 5K
python eval.py checkpoint=model_best.pth data=f30k           weights of the authors on Flickr30K
python eval.py released_root=runs/release_weights data=coco  all of their COCO models that are there
python eval.py run=... protocols=[cxc,correlation]           Crisscrossed Captions
python eval.py run=... save_results=true                     embeddings for eval_ensemble.py
torchrun --standalone --nproc_per_node=4 eval.py run=...     encoding is shared out
"""

from pathlib import Path

from omegaconf import DictConfig

from projects.vseinfty import evaluation, results, trained
from shared import config, files, runtime


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Encode each model's split once, follow the protocols, print the tables, write results.json."""
    settings = config.section(cfg)
    chosen = settings.get("data")
    models = evaluation.targets(
        cfg.run,
        cfg.checkpoint,
        cfg.released_root,
        default=Path(cfg.default_run),
        data=chosen["name"] if chosen else None,
    )
    output = files.ensure_writable(Path(cfg.output or config.run_dir()).expanduser())
    reports = []
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        for target in models:
            # the authors' files name no vocabulary: it is that of the set
            vocabulary = cfg.vocab_path or (chosen["vocab_path"] if chosen and target.is_released else None)
            model = trained.load(target.path, vocab_path=vocabulary, bert=cfg.bert, device=rt.device)
            data = evaluation.data_set(model, chosen)
            data.prepare()
            split_name = cfg.split or data.test_split
            split = evaluation.open_split(model, data, split_name)
            protocols = evaluation.read_protocols(
                cfg.protocols, data, split, split_name, **settings["protocol"], seed=cfg.seed
            )
            embedded = evaluation.embed(model, split, rt, batch_size=cfg.batch_size, workers=cfg.workers)
            if not rt.is_main:
                continue
            report = {"model": target.name, "path": str(target.path), "data": data.name, "split": split_name}
            report["metrics"] = evaluation.evaluate(*embedded, protocols)
            print(evaluation.text(report, split), flush=True)
            if cfg.save_results:
                folder = target.folder if cfg.output is None else output / (target.name * (len(models) > 1))
                report["results"] = str(folder / f"results_{data.name}.npz")
                results.save(Path(report["results"]), *embedded)
                print(f"saved: {report['results']}")
            reports.append(report)
        if rt.is_main:
            files.write_json(output / "results.json", {"name": cfg.name, **reports[0], "models": reports})
            print(f"results: {output / 'results.json'}")


if __name__ == "__main__":
    main()
