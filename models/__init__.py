"""The systems of the lecture notes, a file each, on `tinygrad_seq`'s public names alone: `python -m models` lists them.

A file is read from top to bottom: its equations and their sources, its settings, the model, its data, the experiments that hold the claims of the
notes to the test, and `main`. Delete one, and nothing else notices. What several share is no system: `experiment` runs and resumes them,
`command_line` is their `main`, `digits` and `dates` are data.
"""
