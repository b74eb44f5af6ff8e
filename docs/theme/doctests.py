"""Shows the examples of docstrings as code: to Markdown, `>>>` is a quotation."""

import re

import griffe

# From a prompt to the next empty line, which is where the output of an example ends.
_EXAMPLE = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", flags=re.S | re.M)


class Doctests(griffe.Extension):
    """Puts fences around the examples."""

    def on_instance(self, *, obj: griffe.Object, **_) -> None:
        """Rewrites the docstring of a module, class, function or attribute."""
        if obj.docstring:
            fenced = _EXAMPLE.sub(lambda m: f"```pycon\n{m[0]}\n```", obj.docstring.value)
            obj.docstring.value = fenced
