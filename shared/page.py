"""HTML pages that need nothing from outside: the style sheet and pictures are inline, and values are escaped."""

import base64
from pathlib import Path
from typing import Any


def data_uri(content: bytes, media_type: str) -> str:
    """A data: address that holds `content`."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def render_page(template: Path, **values: Any) -> str:
    """A jinja2 template as HTML: values escaped, unknown names an error, `style` the shared style sheet."""
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return environment.get_template(template.name).render(style=markupsafe.Markup(style), **values)
