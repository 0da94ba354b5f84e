"""``python -m evaluation``: the same as ``g4g-eval``."""

from evaluation.cli import main

main()
