"""The frame of a study: scales, cells, and what is written from them."""
