"""The commands: each a thin parser in front of plain functions, which import torch only when they run."""
