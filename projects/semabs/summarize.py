"""Print the paper's tables from the statistics of evaluations, ours or released ones.

python summarize.py                              released layout in models/, else every evaluation in runs/
python summarize.py models=~/semabs/models       *_eval_stats.pkl, read without pandas and without running them
python summarize.py 'runs={Ours: {ovssc: runs/eval, vool: runs/eval-vool}}'      named evaluations of ours

One cutoff for each approach, tuned on the reported rows as in the paper; beside it one tuned on a split of its own.
"""

from omegaconf import DictConfig

from projects.semabs.summarizing import summarize
from shared import config
from shared.files import ensure_writable


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Read, print, write summary.txt and results.json."""
    settings = config.section(cfg)
    found = summarize(settings)
    print(found.text(), flush=True)
    found.write(ensure_writable(config.run_dir()), settings)


if __name__ == "__main__":
    main()
