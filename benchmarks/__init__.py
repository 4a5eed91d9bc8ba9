"""How fast the snippets are beside the libraries.

operations   the comparisons: what is computed, by which functions
timing       how each is timed
results      reading, checking and writing what was measured
"""
