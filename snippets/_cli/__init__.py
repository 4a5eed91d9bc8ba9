"""Copy snippets into a project and keep them up to date: `python -m snippets`, `runnable-dl`.

commands   what the command line offers
library    what snippets there are, and the text of a copy
flatten    a snippet and what it imports as one file
copies     the copies in somebody's project: found, compared, merged, written
words      the reader's language
packaging  puts what the pages say into the wheel
"""
