"""What the site does beyond MkDocs and its plugins; MkDocs calls in at `events.py`.

contained  running labs and figure scripts so that what is careless does no harm
content    the pages: front matter, twins, embeds, reading order
contribute what helps people to write pages: a package
figures    draw the figures
formulas   formulas to HTML by KaTeX
glossary   one file: glossary page, tooltips, synonyms of the search
labs       notebooks: executed once, rendered in both languages
machines   what programs read: Markdown of each page, llms.txt, registry of the snippets
measured   how fast our code is beside the library's, from benchmarks/results
path       the learning path: navigation, lists of pages, what to read first
search     the index of the search
status     what the tests have found, for the status page
svg        set the figures into the page
take       the files and the notebook that a concept page offers
text       reading Markdown and YAML
weight     what keeps pages light
__main__   the commands: build, serve, figures, new, check, fix, stale, status
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SNIPPETS = ROOT / "snippets"
CACHE = ROOT / ".cache"
RECORDED = CACHE / "status"  # what the tests note, a file for each of their modules
LANGUAGES = ("en", "zh")
