"""A small Sphinx extension that takes out of every page what Jupyter Book puts there and this site does not use.

Live Code needs a server elsewhere, and its scripts are written into each page twice, the second time as an error.
"""

__all__ = ["setup"]


def without_live_code(app, pagename, templatename, context, doctree) -> None:
    """Drop the scripts of sphinx-thebe from the page."""
    files = context.get("script_files", [])
    context["script_files"] = [
        file for file in files if "thebe" not in f"{getattr(file, 'filename', '')}{getattr(file, 'attributes', '')}".lower()
    ]


def setup(app) -> dict:
    app.connect("html-page-context", without_live_code, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
