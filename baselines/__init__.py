"""What models are compared with: controls, other programs, finished videos."""
