"""How fast the snippets are beside the libraries, and how near to what the machine can do.

suites     what is compared: the same computation by several functions
work       the arithmetic of each: FLOP, bytes, exponentials, the least time they need
machine    what it runs on, and what that can do at best
timing     how calls are timed, on a CPU and on a GPU
runner     measures one comparison and makes its rows
results    files of rows: schema, reading, checking, writing
report     tables for the pages, and for comparing two runs
"""
