"""Inputs of no kind at all: what comes out is a result or the product's own error."""
