"""Augmentation of batches on their device: `transform` re-renders poses, `batch` is what follows it."""
