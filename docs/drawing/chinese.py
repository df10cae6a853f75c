"""The labels of the course's pictures in Chinese."""

CHINESE: dict[str, str] = {}
