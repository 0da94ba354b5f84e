"""What every other package needs, and that knows nothing of pixels or faces."""

__version__ = "0.1.0"
