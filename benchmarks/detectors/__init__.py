"""All detectors of the section, trained on the same work and measured alike.

zoo       which they are, and what each is given
training  the images, the budget, the training, what is measured
run       one call: goes on with what was broken off, and writes files
rows      what must hold in a row, beyond the schema
tables    for the section's page and for the terminal
"""

SUITE = "detectors"
COMMAND = "python -m benchmarks detectors"
