"""``python -m g4g_model``: for what starts modules, such as torchrun."""

from g4g_model.cli import main

main()
