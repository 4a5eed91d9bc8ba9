"""What the site does beyond MkDocs and its plugins; MkDocs calls in at `events.py`.

content    the pages: front matter, twins, embeds, reading order
figures    draw the figures
formulas   formulas to HTML by KaTeX
glossary   one file: glossary page, tooltips, synonyms of the search
labs       notebooks: executed once, rendered in both languages
machines   what programs read: Markdown of each page, llms.txt, registry of the snippets
measured   how fast our code is beside the library's, from benchmarks/results
path       the learning path: navigation, lists of pages, what to read first
search     the index of the search
svg        set the figures into the page
take       the files and the notebook that a concept page offers
text       reading Markdown and YAML
weight     what keeps pages light
__main__   the commands: build, serve, figures
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SNIPPETS = ROOT / "snippets"
CACHE = ROOT / ".cache"
LANGUAGES = ("en", "zh")
