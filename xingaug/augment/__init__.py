"""Augmentation of batches on their device: `transform` re-renders poses, `batch` augments the result as usual."""
