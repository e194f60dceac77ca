"""Pictures for a recipe, recipes for a picture, and a picture made from a recipe, over your own files.

python infer.py                                                    examples on the embedded test set
python infer.py images=PHOTOS recipe=soup.txt                      your pictures for a recipe (JSON or text)
python infer.py images=PHOTOS recipes=book.json picture=lunch.jpg  your recipes for a picture
python infer.py recipe='Tomato soup' generator=runs/mini-gan       and a picture synthesised from it
python infer.py recipe=0 attention.show=true                       the words that recipe 0 is judged by

Everything is encoded once: the indices in runs/index are kept, and brought up to date when files change.
Answers: terminal, runs/<name>/results.json and index.html.
"""

import sys

from omegaconf import DictConfig

from projects.xmrs import answers, evaluation, inference, pages, questions, trained
from shared import config, runtime
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Bring the indices up to date, answer, write."""
    settings = config.section(cfg)
    questions.check(settings)  # before anything is loaded
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        if rt.world_size > 1:
            raise InputError("infer.py runs in one process: start it with python, not with torchrun")
        model = trained.load(evaluation.find_model(cfg.model), device=rt.device)
        prepared = questions.inputs(settings, model, rt)
        collection = questions.open_collection(settings, model, prepared)
        asked = questions.read_questions(settings, collection, prepared)
        encoder = inference.Encoder(model.model, rt, cfg.batch_size, cfg.workers)
        found = answers.answer(settings, model, prepared, collection, asked, encoder)
        text = pages.as_text(found, colour=sys.stdout.isatty(), attended=cfg.attention.show)
        print(text)
        print(f"\npage: {pages.write(config.run_dir(), found)}")


if __name__ == "__main__":
    main()
