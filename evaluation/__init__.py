"""How good is a talking-face model, and how sure are we? ``g4g-eval``."""
