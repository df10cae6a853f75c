"""Three questions and an edge, answered by measurement: the pages in ``docs/answers``."""
