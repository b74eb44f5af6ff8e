"""What the site makes of the repository's files beyond MkDocs: the changelog, and drawings."""

import hashlib
import re
from pathlib import Path

from mkdocs.structure.files import File
from pymdownx.superfences import SuperFencesException

HERE = Path(__file__).parent
RENDER = "npx -p @mermaid-js/mermaid-cli mmdc --configFile docs/theme/mermaid.json"


def on_config(config):
    """Has code blocks of the language `mermaid` drawn."""
    fence = {"name": "mermaid", "class": "mermaid", "format": drawing}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    return config


def on_files(files, config):
    """Makes a page of the changelog, which stays where people look for one."""
    changelog = (HERE.parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
    changelog = changelog.replace("](docs/", "](")
    files.append(File.generated(config, "changelog.md", content=changelog))
    return files


def drawing(source, language, css_class, options, md, **_):
    """Returns a Mermaid drawing as SVG that was rendered beforehand.

    In the browser it would take a script of 3.5 MB, which themes load from elsewhere. The file's
    name holds a hash of the source, so a changed drawing can't keep its old picture.
    """
    name = f"{hashlib.sha256(source.strip().encode()).hexdigest()[:12]}.svg"
    file = HERE / "drawings" / name
    if not file.exists():
        raise SuperFencesException(
            f"{file} is missing: a Mermaid drawing is new or has changed. Save its source as "
            f"drawing.mmd, and render it: {RENDER} -i drawing.mmd -o {file}"
        )
    # The colours are those of the page, light or dark (extra.css).
    svg = re.sub(r"<style>.*?</style>", "", file.read_text(encoding="utf-8"), flags=re.S)
    return f'<div class="drawing">{svg}</div>'
