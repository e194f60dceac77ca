"""Find images for a text and captions for an image, with a model of ours or of the authors.

python infer.py                                                   examples on the embedded test images
python infer.py query='a dog near the lake'                       the same images, your words
python infer.py model=runs/mini-pictures images=PHOTOS query='a man on a horse'
python infer.py model=model_best.pth vocab_path=vocab.json features=ims.npy names=names.txt queries=asked.txt
python infer.py model=... query_image=photo.jpg captions=captions.txt

Images are encoded once: the index in runs/index is kept, and brought up to date when files change.
Answers: terminal, runs/<name>/results.json and index.html, with the learned pooling coefficients.
"""

from omegaconf import DictConfig

from projects.vseinfty import figure, inference, pages, questions, trained
from shared import config, runtime
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Bring the index up to date, answer, write."""
    settings = config.section(cfg)
    questions.check(settings)  # before anything is loaded
    with runtime.start(**settings["runtime"]) as rt:
        if rt.world_size > 1:
            raise InputError("infer.py runs in one process: start it with python, not with torchrun")
        model = trained.load(cfg.model, vocab_path=cfg.vocab_path, bert=cfg.bert, device=rt.device)
        encoder = inference.Encoder(model.model, model.tokenizer, rt, cfg.batch_size, cfg.workers)
        identity = questions.identity(model, rt)
        collection = questions.open_collection(settings, model)
        asked = questions.read_questions(settings, collection, model)

        index, texts, images = None, [], []
        if asked.texts or not asked.positions:
            folder = questions.index_folder(settings, identity, collection.key)
            strict = cfg.unreadable == "error"
            index = inference.index_images(
                folder, collection.images(), encoder, model=identity, strict=strict
            )
            print(inference.index_line(index))
            texts = inference.images_for_texts(asked.texts, index, encoder, cfg.top_k, asked.right_images)
        if asked.positions:
            folder = questions.index_folder(settings, identity, collection.captions_key)
            known = inference.index_captions(folder, collection.captions, encoder, model=identity)
            images = inference.captions_for_images(
                asked.source, asked.positions, known, encoder, cfg.top_k, asked.right_captions
            )
        found = pages.Searched(
            model.name, collection.source, index, texts, collection.captions, images,
            asked.source, asked.positions, figure.coefficients(model.model, settings["coefficients"]),
        )  # fmt: skip
        print(pages.as_text(found))
        print(f"\npage: {pages.write(config.run_dir(), found)}")


if __name__ == "__main__":
    main()
