"""Augmented datasets on disk: `generate` writes one, `manifest` says what every synthetic image is."""
