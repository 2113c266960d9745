"""Where images and keypoints come from."""
