"""Generator training: losses, the loop, and quality figures."""
