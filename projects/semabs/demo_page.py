"""The demo's page, in gradio; nothing of it is fetched from or sent to other machines."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from projects.semabs.demo_parts import Parts, example_labels
from shared.errors import InputError

_FONTS = ["system-ui", "DejaVu Sans", "sans-serif"]
_ABOUT = (
    "# Semantic Abstraction\nWhere does CLIP look for a label? Upload a picture and type labels. "
    "With a depth map the scene is completed in 3D."
)


def check_installed() -> None:
    """InputError where gradio is not installed."""
    try:
        _gradio()
    except ImportError:
        raise InputError(
            'demo: gradio is not installed: pip install -e ".[demo]" in the repository'
        ) from None


def build(parts: Parts) -> Any:
    """The page, not yet served."""
    gr = _gradio()
    example = parts.example
    with gr.Blocks(title="Semantic Abstraction", analytics_enabled=False) as page:
        gr.Markdown(_ABOUT)
        with gr.Row():
            with gr.Column(scale=1):
                picture = gr.Image(
                    value=None if example is None else example.rgb,
                    type="numpy",
                    label="Picture",
                    sources=["upload"],
                    elem_id="picture",
                )
                labels = gr.Textbox(
                    value=", ".join(example_labels(example)),
                    label="Labels, at least two (the mean of all is subtracted)",
                    elem_id="labels",
                )
                find = gr.Button("Show relevancies", variant="primary", elem_id="find")
                with gr.Accordion("Complete in 3D", open=parts.completes, visible=parts.completes):
                    depth = gr.File(
                        label="Depth map: .npy in metres or 16-bit .png in millimetres (the example has its own)",
                        type="filepath",
                        file_types=[".npy", ".png"],
                        elem_id="depth",
                    )
                    intrinsics = gr.Textbox(
                        label="Camera: fx, fy, cx, cy in pixels of the picture (empty: 60 degrees across)",
                        elem_id="intrinsics",
                    )
                    tilt = gr.Slider(-60, 60, value=15, step=1, label="The camera looks down by (degrees)")
                    complete = gr.Button("Complete the scene", elem_id="complete")
            with gr.Column(scale=2):
                maps = gr.Gallery(
                    label="Relevancies, strongest first", columns=3, elem_id="maps", format="jpeg"
                )
                views = gr.Gallery(
                    label="Completion", columns=3, elem_id="views", format="jpeg", visible=parts.completes
                )
                about = gr.Markdown(elem_id="about", visible=parts.completes)
                archive = gr.File(label="Meshes", elem_id="meshes", visible=parts.completes)
        find.click(_told(gr, parts.relevancies), [picture, labels], maps, api_name="relevancies")
        complete.click(
            _told(gr, parts.completion),
            [picture, labels, depth, intrinsics, tilt],
            [views, about, archive],
            api_name="completion",
        )
    return page


def serve(page: Any, *, host: str, port: int, wait: bool = True) -> str:
    """Serve the page until interrupted (`wait`); returns its address."""
    gr = _gradio()
    try:
        _, address, _ = page.queue(max_size=16).launch(
            server_name=host,
            server_port=port or _free_port(host),
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=True,
            ssr_mode=False,
            max_file_size="64mb",
            theme=gr.themes.Default(font=_FONTS, font_mono=["DejaVu Sans Mono", "monospace"]),
        )
    except OSError as error:
        raise InputError(f"port: {host}:{port}: {error}") from None
    print(f"demo: {address} (end it with Ctrl-C)", flush=True)
    if wait:
        page.block_thread()
    return str(address)


def _told(gr: Any, work: Callable[..., Any]) -> Callable[..., Any]:
    """`work` whose InputErrors are shown on the page in one line."""
    from functools import wraps

    @wraps(work)
    def guarded(*given: Any) -> Any:
        try:
            return work(*given)
        except InputError as error:
            raise gr.Error(_public(str(error)), print_exception=False) from None

    return guarded


def _public(line: str) -> str:
    """A message without the folders of uploaded files."""
    return " ".join(Path(word).name if word.startswith(os.sep) else word for word in line.split())


def _free_port(host: str) -> int:
    import socket

    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gradio

    return gradio
