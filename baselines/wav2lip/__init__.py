"""Wav2Lip (Prajwal et al., ACM Multimedia 2020): its networks, public weights, and the model that the harness asks."""
