"""The gallery of a model: one page that shows what its clusters are, and has them named."""
