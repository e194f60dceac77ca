"""A web page on this machine that shows relevancies of typed labels in a picture, and completes it with a depth map.

make demo-semabs                                            the embedded rooms and their stand-in for CLIP
python demo.py clip=ViT-B/32 model=models/ours/ovssc/ovssc.pth   released weights
Needs the extra `demo` (gradio): pip install -e ".[demo]"
"""

from pathlib import Path

from omegaconf import DictConfig

from projects.semabs import demo_page, demo_parts
from shared import config, runtime
from shared.errors import InputError


@config.entry(__file__)
def main(cfg: DictConfig) -> None:
    """Load, open the page, wait."""
    settings = config.section(cfg)
    demo_page.check_installed()
    demo_parts.check(settings)
    with runtime.start(**settings["runtime"], seed=cfg.seed) as rt:
        if rt.world_size > 1:
            raise InputError("demo.py runs in one process: start it with python, not with torchrun")
        parts = demo_parts.load(settings, rt, Path(__file__).parent)
        demo_page.serve(demo_page.build(parts), host=cfg.host, port=cfg.port)


if __name__ == "__main__":
    main()
