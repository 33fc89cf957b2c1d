"""The site of these pages: `make docs`, then open build/docs/index.html. Every warning is an error, so a link or an anchor that leads nowhere
fails the build; nothing is asked of a network, neither here nor by the pages."""

import os
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

project = "visual_rft"
extensions = ["myst_parser"]
myst_heading_anchors = 4  # as a code host gives them: page.md#a-heading
html_theme = "furo"
html_title = project
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_copyright = False
highlight_language = "text"  # of a fence without a name


def outside(app: Sphinx, doctree: nodes.document) -> None:
    """Links that MyST cannot follow, as it does those to files: a Markdown file outside docs/ is given, too, and a folder is named by its path in
    the repository. What is not there, and a heading of what is given, stay broken links."""
    here, root = Path(app.srcdir, app.env.docname).parent, Path(app.srcdir).parent
    for link in list(doctree.findall(addnodes.pending_xref)):
        target = here / link["reftarget"]
        page = target.with_name(f"{target.name}.md")
        if link["refdomain"] == "doc" and not link["reftargetid"] and not page.is_relative_to(app.srcdir) and page.is_file():
            given = addnodes.download_reference("", *link.children, reftarget=os.path.relpath(page, here), refdoc=app.env.docname, reftype="myst")
            link.replace_self(given)
        elif link["reftype"] == "myst" and target.is_dir() and target.resolve().is_relative_to(root):
            path = target.resolve().relative_to(root).as_posix()
            named = [nodes.literal(path, path)]
            link.replace_self(named if link.astext() == path else [*link.children, nodes.Text(" ("), *named, nodes.Text(")")])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("doctree-read", outside, priority=100)  # before it collects what is to be given
