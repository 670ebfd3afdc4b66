"""How Sphinx builds the documentation: `make docs`.

The source folder is the repository's root, so that links between documents and to files beside
them work both in the repository and on the site.
"""

from aligned_vq import __version__

project = "aligned-vq"
author = "the aligned-vq contributors"
copyright = "the aligned-vq contributors, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "benchmarks/RESULTS.md",
    "examples/README.md",
]
exclude_patterns = [".*", "build", "runs", "work", "**/node_modules"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
default_role = "code"  # docstrings write `name` for code

autodoc_inherit_docstrings = False  # of torch
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
autodoc_typehints_format = "fully-qualified"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"aligned-vq {__version__}"
html_additional_pages = {"index": "redirect.html"}
html_copy_source = False
html_show_sourcelink = False
templates_path = ["templates"]
