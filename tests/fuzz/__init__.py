"""Coverage-guided fuzzing of everything that reads what a stranger sends, with atheris.

`python -m tests.fuzz` runs the targets one after the other (`make fuzz`). `corpus/` holds inputs
that reach different code, `cases/` every input that ever broke something; the ordinary suite runs
both without atheris. Each target's docstring states its invariant.
"""
