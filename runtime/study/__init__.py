"""Judging edits without torch: `judge` reads the attributes of pictures."""
