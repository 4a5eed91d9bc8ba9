"""What helps people to write pages.

new        writes the files of a concept, from templates/
rules      the rules of the house
terms      one word for one thing, its English name at first, Chinese typography
safety     what a page, a glossary entry or a figure may hold
check      holds them
mend       what a machine can mend
history    the versions of the pages, from git
lag        which sections lag behind the other language
deferred   translations that may lag for a while: docs/deferred.yml
stale      the list of them, the check on pull requests, the note on the site
"""
