"""Evaluate a trained or released model: image-text retrieval, CxC retrieval and CxC correlation.

python eval.py                                              the embedded data's run (python train.py makes it)
python eval.py run=runs/coco_region_bigru                   a run of ours: COCO 1K (5 folds) and 5K
python eval.py checkpoint=model_best.pth data=f30k          weights of the authors on Flickr30K
python eval.py released_root=runs/release_weights data=coco all of their COCO models that are there
python eval.py run=... protocols=[cxc,correlation]          Crisscrossed Captions
python eval.py run=... save_results=true                    embeddings for eval_ensemble.py
torchrun --standalone --nproc_per_node=4 eval.py run=...    images are shared out, numbers are the same
"""

from pathlib import Path

from omegaconf import DictConfig

from projects.vseinfty import evaluation, results, trained
from shared import config, files, runtime


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Encode once, follow every protocol, print the tables, write results.json."""
    settings = config.section(cfg)
    chosen = settings.get("data")
    models = evaluation.targets(
        cfg.run,
        cfg.checkpoint,
        cfg.released_root,
        default=Path(cfg.default_run),
        data=chosen["name"] if chosen else None,
    )
    output = Path(cfg.output).expanduser() if cfg.output else None
    summaries = []
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        for target in models:
            # the authors' files name no vocabulary: it is that of the set
            vocabulary = cfg.vocab_path or (chosen["vocab_path"] if chosen and target.is_released else None)
            model = trained.load(target.path, vocab_path=vocabulary, bert=cfg.bert, device=rt.device)
            data = evaluation.data_set(model, chosen)
            data.prepare()
            protocols = evaluation.check_protocols(cfg.protocols, data)
            split_name = cfg.split or data.test_split
            split = evaluation.open_split(model, data, split_name)
            embedded = evaluation.embed(model, split, rt, batch_size=cfg.batch_size, workers=cfg.workers)
            if not rt.is_main:
                continue
            found = evaluation.evaluate(
                embedded,
                protocols=protocols,
                folds=cfg.folds or data.folds,
                split=split_name,
                cxc_folder=Path(cfg.cxc_folder or Path(data.root) / "cxc_annots").expanduser(),
                correlation_split=cfg.correlation_split,
                correlation_samples=cfg.correlation_samples,
                seed=cfg.seed,
            )
            counts = f"{split.num_images} images, {split.num_captions} captions"
            print(
                f"{target.name}: {data.name} {split_name}, {counts}\n{evaluation.summary(found)}\n",
                flush=True,
            )
            summary = {"model": target.name, "path": str(target.path), "data": data.name, "split": split_name}
            if cfg.save_results:
                folder = output / target.name if output and len(models) > 1 else output or target.folder
                path = folder / f"results_{data.name}.npz"
                results.save(path, embedded.images, embedded.captions)
                summary["results"] = str(path)
                print(f"saved: {path}")
            summaries.append({**summary, "metrics": found})
        if rt.is_main:
            path = (output or config.run_dir()) / "results.json"
            files.write_json(path, {"name": cfg.name, **summaries[0], "models": summaries})
            print(f"results: {path}")


if __name__ == "__main__":
    main()
